import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from toytasks.runs import data_set, made_task

from rnnjax.parallel.mesh import BATCH, batch_mesh
from rnnjax.tasks.task import Task
from rnnjax.training.record import training_rows
from rnnjax.training.state import initial_train_state
from rnnjax.training.step import TrainState, train_step


def task() -> Task:
    """Least squares with one weight: loss (w x - y)^2, metric `double` twice the loss."""

    def loss(params, carry, batch, key):
        loss = (params["w"] * batch["x"] - batch["y"]) ** 2
        return {"loss": loss, "double": 2 * loss}, carry

    data = data_set(train={"x": np.zeros(4, np.float32), "y": np.zeros(4, np.float32)})
    return made_task(data, lambda key: {"w": jnp.float32(2.0)}, loss)


BATCH_OF_4 = {"x": jnp.array([1.0, 2.0, 3.0, 4.0]), "y": jnp.array([1.0, 0.0, -1.0, 2.0])}


def mapped_step(optimizer, devices: int):
    everywhere = PartitionSpec()
    state = TrainState(everywhere, everywhere, everywhere, PartitionSpec(BATCH), everywhere)
    return jax.shard_map(
        functools.partial(train_step, task(), optimizer),
        mesh=batch_mesh(str(devices), 4),
        in_specs=(state, PartitionSpec(BATCH)),
        out_specs=(state, everywhere),
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_follows_the_gradient_of_the_mean_loss_of_the_whole_batch(devices):
    optimizer = optax.sgd(0.01)
    state, metrics = jax.jit(mapped_step(optimizer, devices))(initial_train_state(task(), optimizer)(0), BATCH_OF_4)
    # wrong = w x - y = [1, 4, 7, 6]; loss = mean(wrong^2) = 25.5; d loss / d w = mean(2 wrong x) = 27
    assert float(metrics["loss"]) == 25.5
    assert float(metrics["double"]) == 51
    np.testing.assert_allclose(state.params["w"], 2 - 0.01 * 27, rtol=1e-6)
    assert int(state.step) == 1
    assert float(metrics["gradient_norm"]) == 27
    assert float(metrics["update_norm"]) == pytest.approx(0.27)


def test_the_mean_loss_of_a_task_is_what_a_step_minimises():
    params = {"w": jnp.float32(2.0)}
    arrays = jax.tree.map(np.asarray, BATCH_OF_4)
    loss, gradient = jax.value_and_grad(task().mean_loss)(params, arrays)
    assert (float(loss), float(gradient["w"])) == (25.5, 27)


def test_a_step_is_pure():
    optimizer = optax.adam(0.1)
    step, before = jax.jit(mapped_step(optimizer, 1)), initial_train_state(task(), optimizer)(0)
    one, other = step(before, BATCH_OF_4), step(before, BATCH_OF_4)
    assert float(before.params["w"]) == 2
    assert float(one[0].params["w"]) == float(other[0].params["w"]) != 2
    assert jax.random.key_data(one[0].key).tolist() == jax.random.key_data(before.key).tolist()


def test_a_step_runs_under_pmap_as_well():
    optimizer = optax.sgd(0.01)
    step = jax.pmap(functools.partial(train_step, task(), optimizer), axis_name=BATCH, in_axes=(None, 0))
    halves = jax.tree.map(lambda values: values.reshape(2, 2), BATCH_OF_4)
    state, metrics = step(initial_train_state(task(), optimizer)(0), halves)
    np.testing.assert_allclose(state.params["w"], [2 - 0.01 * 27] * 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], [25.5, 25.5])


def test_the_initial_state_is_a_function_of_the_seed():
    def state(seed):
        loss = task().loss
        random = made_task(task().data, lambda key: jax.random.normal(key, (3,)), loss)
        return initial_train_state(random, optax.adam(0.1))(seed)

    assert int(state(3).step) == 0
    assert state(3).params.tolist() == state(3).params.tolist() != state(4).params.tolist()
    assert jax.random.key_data(state(3).key).tolist() != jax.random.key_data(state(4).key).tolist()


@pytest.mark.parametrize(
    ("log_every", "expected"),
    [
        (1, [(7, 0.0), (8, 1.0), (9, 2.0), (10, 3.0), (11, 4.0)]),
        (2, [(8, 0.5), (10, 2.5), (11, 4.0)]),
        (5, [(11, 2.0)]),
        (100, [(11, 2.0)]),
    ],
)
def test_training_rows_are_means_over_log_every_steps_and_over_the_rest(log_every, expected):
    metrics = {"loss": np.arange(5.0), "accuracy": 10 * np.arange(5.0)}
    rows = training_rows(metrics, 11, 2, log_every)
    assert [(row["step"], row["loss"]) for row in rows] == expected
    assert [row["accuracy"] for row in rows] == [10 * loss for _, loss in expected]
    assert all(row["epoch"] == 2 and row["split"] == "train" for row in rows)
