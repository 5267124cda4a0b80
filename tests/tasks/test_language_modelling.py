"""Training on windows is truncated BPTT, evaluation counts every token once, and generation is text."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures.parameters import drawn_parameters
from jax.sharding import PartitionSpec

from rnnjax.config import CellConfig, ParallelConfig
from rnnjax.config_flags import read_config
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError
from rnnjax.parallel.mesh import BATCH, batch_mesh
from rnnjax.tasks import build_task, language_model
from rnnjax.tasks.language_model import Config, TextConfig
from rnnjax.training.split_evaluation import Evaluator
from rnnjax.training.state import initial_train_state
from rnnjax.training.step import TrainState, train_step

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

LINES = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog ran"]
TEXT = "".join(f"{LINES[i * i % 3]}\n" for i in range(30))
RATE = 0.5


@pytest.fixture(scope="module")
def own_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "mine.txt"
    path.write_text(TEXT)
    return str(path)


def config(path, tokens="characters", **fields):
    fields = {
        "batch_size": 2,
        "window": 5,
        "embedding_size": 4,
        "cell": CellConfig(kind="LSTM", hidden_size=6),
        "parallel": ParallelConfig(batch="1"),
        **fields,
    }
    return freeze(Config(data=TextConfig(name="text", path=path, tokens=tokens), **fields))


@pytest.fixture(scope="module")
def task(own_text):
    return build_task(config(own_text))


@pytest.fixture(scope="module")
def state(task):
    return initial_train_state(task, optax.sgd(RATE))(0)


def window(task, number, split="train"):
    return {name: jnp.asarray(values[2 * number : 2 * number + 2]) for name, values in task.data.splits[split].items()}


def loss_and_carry(task, params, carry, batch):
    values, carry = task.loss(params, carry, batch, None)
    loss = values["loss"]
    return (loss.value * loss.weight).sum() / loss.weight.sum(), carry


@pytest.fixture(scope="module")
def values(task):
    """What the task makes of a batch in evaluation, compiled."""
    return jax.jit(lambda params, carry, batch: task.loss(params, carry, batch, None))


@pytest.fixture(scope="module")
def step(task):
    everywhere = PartitionSpec()
    spec = TrainState(everywhere, everywhere, everywhere, PartitionSpec(BATCH), everywhere)
    return jax.jit(
        jax.shard_map(
            functools.partial(train_step, task, optax.sgd(RATE)),
            mesh=batch_mesh("1", 2),
            in_specs=(spec, PartitionSpec(BATCH)),
            out_specs=(spec, everywhere),
        )
    )


# Truncated BPTT


def test_the_gradient_stops_exactly_at_the_window(task, state, step):
    once, _ = step(state, window(task, 0))
    twice, _ = step(once, window(task, 1))

    @jax.jit
    @jax.grad
    def through(params, stop):
        """The gradient of the second window's loss with respect to the parameters that both windows are read with."""
        _, carry = loss_and_carry(task, params, state.carry, window(task, 0))
        carry = jax.tree.map(lambda leaf: jnp.where(stop, jax.lax.stop_gradient(leaf), leaf), carry)
        return loss_and_carry(task, params, carry, window(task, 1))[0]

    # With the carry of the first step, which was computed with the parameters before it.
    gradient = jax.jit(jax.grad(lambda params: loss_and_carry(task, params, once.carry, window(task, 1))[0]))(
        once.params
    )
    expected = jax.tree.map(lambda p, g: p - RATE * g, once.params, gradient)
    for found, wanted in zip(jax.tree.leaves(twice.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    # Within a window it goes back all the way; across windows it would go on if it were not stopped.
    stopped, unbroken = (through(state.params, stop)["params"]["recurrent"]["rnn"].w_h for stop in (True, False))
    assert np.abs(stopped - unbroken).max() > 1e-4 * np.abs(unbroken).max()


def test_the_carried_state_is_that_of_the_unbroken_text(task, values, state):
    carry = state.carry
    for number in range(3):
        _, carry = values(state.params, carry, window(task, number))
    rows = [window(task, number)["tokens"][:, :-1] for number in range(3)]
    whole = {
        "tokens": jnp.concatenate([*rows, window(task, 2)["tokens"][:, -1:]], 1),
        "counted": jnp.ones((2, 15), bool),
        "start": jnp.array([True, True]),
    }
    _, unbroken = values(state.params, state.carry, whole)
    for found, wanted in zip(jax.tree.leaves(carry), jax.tree.leaves(unbroken), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_where_a_lane_starts_what_was_carried_is_forgotten(task, values, state):
    other = jax.tree.map(lambda leaf: leaf + 3.0, state.carry)
    fresh, stale = (values(state.params, carry, window(task, 0)) for carry in (state.carry, other))
    for a, b in zip(jax.tree.leaves(fresh), jax.tree.leaves(stale), strict=True):
        np.testing.assert_array_equal(a, b)
    later = [values(state.params, carry, window(task, 1))[0]["loss"].value for carry in (state.carry, other)]
    assert not np.allclose(*later)


# Evaluation


@pytest.mark.parametrize("tokens", ["characters", "words"])
def test_evaluation_is_the_mean_over_all_tokens_of_the_split(own_text, tokens):
    task = build_task(config(own_text, tokens, batch_size=1, window=7))
    params = drawn_parameters(task.init)
    found = Evaluator(task, batch_mesh("1", 1), "test", 1, resident=True).of_only_run(params)["loss"]
    # One lane, from the beginning: the whole split as a single window.
    text = language_model.load(config(own_text, tokens).data)
    vocabulary = language_model.build_vocabulary(config(own_text, tokens).data, text)
    ids = vocabulary.encode(text.splits["test"])
    whole = {
        "tokens": jnp.concatenate([jnp.array([vocabulary.start]), ids])[None],
        "counted": jnp.ones((1, len(ids)), bool),
        "start": jnp.array([True]),
    }
    expected, _ = jax.jit(functools.partial(loss_and_carry, task))(params, task.carry, whole)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_learned_state_is_trained_where_a_lane_starts(own_text):
    learning = build_task(config(own_text, cell=CellConfig(hidden_size=3, wrappers=("learned_state",))))
    params, batch = learning.init(jax.random.key(0)), window(learning, 0)

    @jax.jit
    @jax.grad
    def gradient(params, start):
        return loss_and_carry(learning, params, learning.carry, batch | {"start": start})[0]

    at_start, later = (
        jax.tree.leaves(gradient(params, np.full(2, start))["params"]["recurrent"]["rnn"].state)
        for start in (True, False)
    )
    assert all((leaf != 0).any() for leaf in at_start)
    assert all((leaf == 0).all() for leaf in later)


def test_what_does_not_count_changes_nothing(task, values, state):
    batch = window(task, len(task.data.splits["test"]["start"]) // 2 - 1, "test")
    assert not batch["counted"].all()
    wrong = jnp.where(jnp.pad(batch["counted"], ((0, 0), (1, 0)), constant_values=True), batch["tokens"], 0)
    losses = [
        values(state.params, state.carry, {**batch, "tokens": tokens})[0]["loss"] for tokens in (batch["tokens"], wrong)
    ]
    np.testing.assert_array_equal(losses[0].value, losses[1].value)
    assert losses[0].weight.tolist() == batch["counted"].sum(1).tolist()


def test_metrics_of_characters_and_of_words():
    assert language_model.bits_per_character({"loss": math.log(8)})["bits_per_character"] == pytest.approx(3)
    assert language_model.perplexity({"loss": math.log(80)})["perplexity"] == pytest.approx(80)
    assert language_model.perplexity({"loss": 1e4})["perplexity"] == math.inf


# Parameters


def test_init_scale_draws_every_parameter_uniformly(own_text):
    params = jax.jit(build_task(config(own_text, init_scale=0.1)).init)(jax.random.key(0))
    leaves = jax.tree.leaves(params)
    assert all(np.abs(leaf).max() <= 0.1 for leaf in leaves)
    everything = np.concatenate([np.ravel(leaf) for leaf in leaves])
    np.testing.assert_allclose(everything.std(), 0.1 / math.sqrt(3), rtol=0.1)
    assert not (everything == 0).any()
    assert len({float(np.ravel(leaf)[0]) for leaf in leaves}) == len(leaves)


# Generation


def test_generated_characters_follow_the_prompt_and_are_the_same_for_the_same_seed(task, state):
    one, other, third = (
        "\n".join(task.generate(state.params, prompt="the c", length=20, seed=seed)) for seed in (0, 0, 1)
    )
    assert one == other != third
    assert one.startswith("the c")
    assert len(one) == 25
    assert set(one) <= set(TEXT)


def test_generation_needs_no_prompt(task, state):
    assert len("\n".join(task.generate(state.params, length=20))) == 20


def test_an_unknown_character_in_the_prompt_is_refused_in_one_sentence(task, state):
    with pytest.raises(ConfigError, match=r"^the prompt: the character 'é' is not in .*; leave it out$"):
        list(task.generate(state.params, prompt="thé"))


def test_an_unknown_word_in_the_prompt_becomes_unk(own_text):
    task = build_task(config(own_text, "words"))
    lines = list(task.generate(drawn_parameters(task.init), prompt="the zebra sat", length=9))
    assert " ".join(lines).startswith("the <unk> sat ")
    assert set(" ".join(lines).split()) <= {*TEXT.split(), "<unk>"}


# Configs


@pytest.mark.parametrize("variant", ["lstm", "gru", "cpu", "embedded"])
def test_character_variants(variant, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    found = read_config(["--config", f"configs/char_lm.py:{variant}"])[0]
    assert found.data.tokens == "characters"
    assert found.data.name == ("embedded" if variant == "embedded" else "tinyshakespeare")


@pytest.mark.parametrize(
    ("variant", "size", "steps", "epochs", "dropout", "scale", "clip", "after", "decay"),
    [
        ("small", 200, 20, 13, 0.0, 0.1, 5, 4, 0.5),
        ("medium", 650, 35, 39, 0.5, 0.05, 5, 6, 0.8),
        ("large", 1500, 35, 55, 0.65, 0.04, 10, 14, 1 / 1.15),
    ],
)
def test_word_variants_are_those_of_the_source(
    variant, size, steps, epochs, dropout, scale, clip, after, decay, monkeypatch, request
):
    monkeypatch.chdir(request.config.rootpath)
    found = read_config(["--config", f"configs/ptb.py:{variant}"])[0]
    cell, optimizer = found.cell, found.optimizer
    assert (cell.hidden_size, found.embedding_size, cell.layers, found.window) == (size, size, 2, steps)
    assert (found.batch_size, found.epochs, found.init_scale, found.data.vocabulary_size) == (20, epochs, scale, 10_000)
    assert (cell.dropout.chosen(), found.output_dropout) == ({"input_rate": dropout} if dropout else {}, dropout)
    assert cell.wrappers == (("dropout",) if dropout else ())
    # The source's gradient is T times ours: rate 1 and its clip norm, on a loss that is summed over time.
    assert (optimizer.name, optimizer.learning_rate, optimizer.clip_norm * steps) == ("sgd", steps, pytest.approx(clip))
    assert (optimizer.schedule, optimizer.decay_after, optimizer.decay_rate) == ("staircase", after, decay)


@pytest.mark.parametrize(
    ("fields", "data", "message"),
    [
        ({"window": 0}, {}, "window must be at least 1, got 0"),
        ({"embedding_size": 0}, {}, "embedding_size must be at least 1, got 0"),
        ({"output_dropout": 1.0}, {}, "output_dropout must be from 0 to below 1, got 1.0"),
        ({"init_scale": 0.0}, {}, "init_scale must be positive, got 0.0"),
        ({"init_scale": 0.1, "cell": CellConfig(kind="LSTM", forget_bias=1.0)}, {}, "leave cell.forget_bias out"),
        ({"tied": True, "embedding_size": 7}, {}, "tied weights need embedding_size 150, .*got 7"),
        ({}, {"name": "wikitext"}, "data.name must be one of tinyshakespeare, .*got 'wikitext'"),
        ({}, {"name": "text"}, "texts of your own need --config.data.path"),
        ({}, {"name": "embedded", "path": "mine.txt"}, "leave data.path out, or add --config.data.name=text"),
        ({}, {"tokens": "bytes"}, "data.tokens must be .*got 'bytes'"),
        ({}, {"vocabulary_size": 2}, "data.vocabulary_size must be at least 3, got 2"),
        ({}, {"validation_fraction": 0.0}, "data.validation_fraction must be between 0 and 1, got 0.0"),
        ({}, {"validation_fraction": 0.6, "test_fraction": 0.4}, "must leave data, got 1 together"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, data, message):
    with pytest.raises(ConfigError, match=message):
        freeze(Config(data=TextConfig(**data), **fields))


def test_a_text_too_short_for_the_batch_is_refused(own_text):
    with pytest.raises(ConfigError, match=r"\d+ training tokens make no window of 99 .* lower batch_size or window"):
        build_task(config(own_text, window=99, batch_size=20))
