import jax
import numpy as np
import optax
import pytest
from fixtures.parameters import drawn_parameters
from fixtures.thorough import once_more

from rnnjax.config import CellConfig, DataConfig
from rnnjax.config_file import get_config
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError
from rnnjax.tasks import build_task, hihello

EXAMPLE = build_task(freeze(hihello.Config())).data.splits["train"]


def learnt(config):
    """The parameters after the steps of the config, and how many steps had not all characters right."""
    task = build_task(freeze(config))
    optimizer = optax.adam(config.optimizer.learning_rate)
    params = jax.jit(task.init)(jax.random.key(0))

    def step(carry, _):
        params, state = carry

        def loss(params):
            values, _ = task.loss(params, None, dict(EXAMPLE), None)
            return values["loss"].value.mean(), values["accuracy"].value[0]

        gradients, accuracy = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), accuracy

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=config.epochs))
    (params, _), accuracies = run((params, optimizer.init(params)))
    return task, params, np.asarray(accuracies)


@pytest.mark.parametrize("variant", ["basic", once_more("lstm"), once_more("gru")])
def test_all_six_characters_are_right_within_100_steps(variant):
    config = get_config(f"hihello:{variant}")
    assert (config.epochs, config.batch_size, config.cell.hidden_size, config.optimizer.learning_rate) == (
        (100, 1, 10, 0.1)
    )
    task, params, accuracies = learnt(config)
    assert accuracies[-1] == 1
    assert accuracies[0] < 1
    assert list(task.generate(params)) == ["ihello"]


def test_the_example_is_each_character_and_the_next():
    assert EXAMPLE["inputs"].tolist() == [[0, 1, 0, 2, 3, 3]]  # h i h e l l
    assert EXAMPLE["targets"].tolist() == [[1, 0, 2, 3, 3, 4]]  # i h e l l o
    assert EXAMPLE["weights"].tolist() == [[1] * 6]


def test_steps_without_weight_count_neither_in_loss_nor_in_accuracy():
    task = build_task(freeze(hihello.Config(cell=CellConfig(hidden_size=3))))
    params = drawn_parameters(task.init)
    weights = np.array([[1, 1, 0, 0, 0, 0]], np.float32)
    values = jax.jit(lambda batch: task.loss(params, None, batch, None)[0])
    found = values({**EXAMPLE, "weights": weights})
    first = {name: values[:, :2] for name, values in EXAMPLE.items()}
    expected = values(first)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(found[name].value, expected[name].value, rtol=1e-6)
        np.testing.assert_array_equal(found[name].weight, [2])


def test_a_prompt_of_other_characters_is_refused():
    task = build_task(freeze(hihello.Config(cell=CellConfig(hidden_size=3))))
    params = drawn_parameters(task.init)
    assert len(next(task.generate(params, prompt="hello"))) == 5
    with pytest.raises(ConfigError, match="only the characters 'hielo' are known, not 'xy'; use those"):
        next(task.generate(params, prompt="hyx"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "h"}, "text must have at least two characters, got 'h'"),
        ({"data": DataConfig(name="mnist")}, "the data is config.text"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        freeze(hihello.Config(**fields))
