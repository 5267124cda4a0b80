import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.parameters import drawn_parameters

from configs.sequences import VARIANTS
from rnnjax.config import CellConfig
from rnnjax.config_file import get_config
from rnnjax.config_group import freeze
from rnnjax.data.problems import PROBLEMS
from rnnjax.data.sequences import examples_of
from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task, sequences
from rnnjax.tasks.sequences import SequencesConfig, judged_classes, judged_numbers, length_table, results_by_length
from rnnjax.training.sweeps.grid import groups, read_grid
from rnnjax.training.sweeps.sweep import build_first_task


def config(name="parity", cell=None, **fields):
    sizes = {"length": 6, "examples": 40, "held_out": 10, "test_lengths": (6, 9)}
    data = SequencesConfig(name=name, **{**sizes, **fields})
    return sequences.Config(cell=cell or CellConfig(hidden_size=4), data=data, batch_size=4)


def test_loss_and_accuracy_of_classes_are_of_the_steps_that_count_and_are_scored():
    logits = jnp.log(jnp.array([[[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]]]))
    batch = {"targets": np.array([[0, 0, 1]]), "counted": np.array([[True, True, False]])}
    values = judged_classes(logits, batch | {"scored": np.array([[False, True, True]])})
    assert values["loss"].value[0] == pytest.approx(-(np.log(0.7) + np.log(0.4)) / 2, rel=1e-5)
    assert (values["accuracy"].value[0], values["accuracy"].weight[0]) == (0.5, 2)


def test_a_number_is_right_within_four_hundredths():
    answers = jnp.array([[[9.0], [0.53]], [[9.0], [0.55]]])
    last = np.array([[False, True]] * 2)
    batch = {"targets": np.full((2, 2), 0.5, np.float32), "counted": last, "scored": last}
    values = judged_numbers(answers, batch)
    np.testing.assert_allclose(values["loss"].value, [0.03**2, 0.05**2], rtol=1e-4)
    assert values["accuracy"].value.tolist() == [1, 0]


def test_training_batches_are_made_from_keys_and_held_out_ones_are_read():
    task = build_task(freeze(config()))
    params, train = drawn_parameters(task.init), task.data.splits["train"]
    keys = {name: values[:4] for name, values in train.items()}
    made = examples_of(config().data.problem(), keys["key"], keys["length"], 6)
    evaluated = jax.jit(lambda batch: task.loss(params, None, batch, None)[0])
    for name, value in evaluated(keys).items():
        np.testing.assert_array_equal(value.value, evaluated(made)[name].value)


def test_examples_have_the_seed_of_the_run_or_one_of_their_own():
    def checksum(seed, own):
        fields = dataclasses.replace(config(seed=own), seed=seed)
        return build_task(freeze(fields)).data.checksum

    assert checksum(3, None) == checksum(5, 3) == checksum(6, 3) != checksum(5, None)
    with pytest.raises(ConfigError, match=r"data\.seed must be from 0 to 4294967295, got -1; leave it out for that of"):
        freeze(config(seed=-1))


def test_seeds_of_a_sweep_on_the_same_examples_share_one_program():
    small = ["--config.data.length=4", "--config.data.examples=40", "--config.data.held_out=8"]
    arguments = ["--config", "configs/sequences.py:parity", *small]
    programs = {}
    for name, more in {"run": [], "data": ["--config.data.seed=0"]}.items():
        grid, _, _ = read_grid([*arguments, *more], seeds=3, at_once=None)
        programs[name] = len(groups(grid, seeds_apart=build_first_task(grid)[1]))
    assert programs == {"run": 3, "data": 1}


def test_the_table_has_a_column_of_baselines_where_there_are_any():
    results = {4: {"accuracy": 0.5, "loss": 0.25}}
    lines = {name: [line.split() for line in length_table(PROBLEMS[name](), results)] for name in ("parity", "adding")}
    assert lines["parity"] == [["length", "accuracy", "loss"], ["4", "0.5000", "0.2500"]]
    assert lines["adding"] == [["length", "accuracy", "loss", "baseline"], ["4", "0.5000", "0.2500", "0.1667"]]


def test_results_by_length_are_means_over_the_examples_of_each():
    task = build_task(freeze(config("s5", CellConfig(kind="MinGRU", hidden_size=4))))
    params, test = drawn_parameters(task.init), task.data.splits["test"]
    values = jax.jit(lambda params, batch: task.loss(params, None, batch, None)[0])
    results = results_by_length(values, params, test, batch_size=4)
    assert list(results) == [6, 9]
    for length, row in results.items():
        rows = test["length"] == length
        whole = values(params, {name: each[rows] for name, each in test.items()})
        for name, value in row.items():
            assert value == pytest.approx(float(np.average(whole[name].value, weights=whole[name].weight)), rel=1e-5)


def test_numbers_are_read_as_they_are_and_symbols_one_hot_or_embedded():
    one_hot = jax.eval_shape(build_task(freeze(config())).init, jax.random.key(0))["params"]
    numbers = jax.eval_shape(build_task(freeze(config("adding"))).init, jax.random.key(0))["params"]
    embedding = config("mqar", alphabet=16, memory=1)
    embedding.embedding = 3
    embedded = jax.eval_shape(build_task(freeze(embedding)).init, jax.random.key(0))["params"]
    for params, inputs, outputs in ((one_hot, 2, 2), (numbers, 2, 1), (embedded, 3, 16)):
        assert params["RNN_0"]["rnn"].w_x.shape[0] == inputs
        assert params["Dense_0"]["kernel"].shape[1] == outputs
    assert embedded["Embed_0"]["embedding"].shape == (16, 3)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("parityy", {}, "data.name must be one of adding, .*, got 'parityy'; did you mean 'parity'"),
        ("parity", {"path": "/data"}, "leave data.path out"),
        ("parity", {"examples": 0}, "data.examples must be at least 1, got 0"),
        ("parity", {"memory": 3}, "parity has no memory; leave data.memory out"),
        ("parity", {"shortest": 7}, "data.shortest must be at most data.length, 6, got 7"),
        ("parity", {"test_lengths": (6, 0)}, "an example of parity has a length of at least 1, got 0"),
        ("mqar", {}, "an example of mqar has a length of at least 16, got 6"),
        ("mqar", {"memory": 1, "alphabet": 3}, "data.alphabet must be from 4 to 1000000, got 3"),
        ("copy", {"memory": -1}, "data.memory must not be negative, got -1"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        freeze(config(name, **fields))


def test_numbers_cannot_be_embedded():
    adding = config("adding")
    adding.embedding = 3
    with pytest.raises(ConfigError, match="adding has no symbols to embed; leave embedding out"):
        freeze(adding)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_tested_beyond_the_length_of_training(variant):
    sizes = freeze(get_config(f"sequences:{variant}")).data.sizes()
    assert sizes.test_lengths[0] == sizes.longest
    assert sizes.test_lengths[-1] >= 2 * sizes.longest
