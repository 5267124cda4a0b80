"""One per-device program, mapped by `jax.shard_map` and by `jax.pmap`, on one device and on two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import main_of, once_more
from jax.sharding import AbstractMesh, PartitionSpec
from toytasks.runs import changed, data_set, leaves, line_config, made_task, sign_config

from rnnjax.config import CellConfig, DataConfig, ParallelConfig
from rnnjax.errors import ConfigError
from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import BATCH, LAYERS, batch_mesh, place
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Buckets
from rnnjax.training.batches import STEPS
from rnnjax.training.engine import Engine
from rnnjax.training.loop import log_uneven_batches
from rnnjax.training.state import as_only_run, initial_train_state, place_state

MAPS = ["shard_map", "pmap"]


def trained(config, task):
    """What two epochs leave behind: the metrics of every step, those of the validation split, and the state."""
    engine = Engine(task, config, batch_mesh(config.parallel.batch, config.batch_size))
    state = place_state(engine.mesh, initial_train_state(task, engine.optimizer())(config.seed))
    states, metrics, plan = as_only_run(engine.mesh, state), [], engine.schedule
    for step in range(0, plan.steps, plan.call_steps):
        epoch, first = divmod(step, plan.epoch_steps)
        states, found = engine.steps(states, engine.order(epoch), first, plan.call_steps)
        metrics.append(found)
    return metrics, engine.evaluate["validation"](states.params), states


def assert_agree(one, other, rtol=1e-6):
    """Asserts that all numbers are equal within rounding."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    assert len(pairs) > 8
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def on(devices: str, map: str, config):
    """A config on some devices."""
    return dataclasses.replace(config, parallel=ParallelConfig(batch=devices, map=map))


def bucket_case():
    config = sign_config(
        data=DataConfig(feed="host"), cell=CellConfig(hidden_size=4, dropout={"output_rate": 0.3}), epochs=2
    )
    task = build_task(config)
    of = {name: np.arange(len(split["x"])) % 2 for name, split in task.data.splits.items()}
    return config, changed(task, buckets=Buckets(of, ({"x": 2}, {"x": 4})))


def carry_case():
    def loss(params, carry, batch, key):
        carry = jnp.tanh(params["w"] * carry + batch["x"])
        return {"loss": (carry - batch["y"]) ** 2}, carry

    x, y = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    data = data_set(train={"x": x, "y": y})
    task = made_task(
        data, lambda key: {"w": jnp.ones(())}, loss, "loss", False, carry=np.zeros(4, np.float32), ordered=True
    )
    return line_config(epochs=2, steps_per_call=2), task


CASES = {
    "buckets, dropout, host feed": bucket_case,
    "carry, device feed": carry_case,
}


@pytest.mark.parametrize("name", main_of(CASES, ["carry, device feed"]))
def test_training_by_pmap_equals_training_by_shard_map(name):
    config, task = CASES[name]()
    assert_agree(*(trained(on("2", map, config), task) for map in MAPS))


@pytest.fixture(scope="module")
def seven_on_one_device():
    config = sign_config(batch_size=7, epochs=2)
    return trained(config, build_task(config))


@pytest.mark.parametrize(("map", "feed"), [("shard_map", "device"), once_more("pmap", "host")])
def test_a_batch_that_does_not_divide_counts_every_example_once(map, feed, seven_on_one_device):
    config = on("2", map, sign_config(batch_size=7, epochs=2, data=DataConfig(feed=feed)))
    assert_agree(trained(config, build_task(config)), seven_on_one_device, rtol=1e-4)


def test_a_batch_smaller_than_the_devices_are_many_trains_too():
    config, task = carry_case()
    task = changed(
        task,
        carry=None,
        loss=lambda params, carry, batch, key: ({"loss": (params["w"] * batch["x"] - batch["y"]) ** 2}, carry),
    )
    config = dataclasses.replace(config, batch_size=1)
    metrics, _, state = trained(on("2", "shard_map", config), task)
    expected, _, other = trained(config, task)
    for one, two in zip(leaves((metrics, state.params)), leaves((expected, other.params)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


def test_carried_state_is_not_filled_up_but_refused():
    config, task = carry_case()
    config = dataclasses.replace(on("2", "shard_map", config), batch_size=5)
    with pytest.raises(ConfigError, match=r"batch_size 5 does not divide over 2 devices, .* carries state"):
        Engine(task, config, batch_mesh("2", 5))


@pytest.mark.parametrize(
    ("batch_size", "messages"),
    [
        (
            8,
            [
                "each epoch leaves out 3 of 67 training examples, different ones every time, because they do not fill "
                "a batch of 8"
            ],
        ),
        (67, ["batches of 67 are padded to 68 with examples of weight zero, to divide over 2 devices"]),
    ],
)
def test_what_does_not_divide_is_said(batch_size, messages, caplog):
    with caplog.at_level("INFO"):
        log_uneven_batches(build_task(sign_config()), batch_size, batch_mesh("2", batch_size))
    assert caplog.messages == messages


@pytest.mark.parametrize("map", MAPS)
def test_a_mapped_function_sees_parts_and_its_axis_and_gives_whole_arrays(map):
    mesh = batch_mesh("2", 4)

    def function(scale, xs):
        assert xs.shape == (3, 2)  # [steps, this device's part]
        return jax.lax.psum(xs.sum(1), BATCH), scale["of"] * xs + jax.lax.axis_index(BATCH)

    compile_for = map_over_devices(function, mesh, (PartitionSpec(), STEPS), (PartitionSpec(), STEPS), map=map)
    xs = np.arange(12, dtype=np.float32).reshape(3, 4)
    arguments = place(mesh, PartitionSpec(), {"of": np.array(10, np.float32)}), place(mesh, STEPS, xs)
    sums, scaled = compile_for(*arguments)(*arguments)
    np.testing.assert_array_equal(sums, xs.sum(1))
    np.testing.assert_array_equal(scaled, 10 * xs + [0, 0, 1, 1])
    assert scaled.sharding.is_equivalent_to(arguments[1].sharding, 2)


@pytest.mark.parametrize("map", MAPS)
def test_the_memory_of_a_donated_argument_is_given_away(map):
    mesh, split = batch_mesh("2", 4), PartitionSpec(BATCH)
    everywhere = PartitionSpec()

    def function(state, xs):
        return state + jax.lax.psum(xs.sum(), BATCH)

    compile_for = map_over_devices(function, mesh, (everywhere, split), everywhere, map=map, donate=[0])
    state, xs = place(mesh, everywhere, np.ones(3, np.float32)), place(mesh, split, np.ones(4, np.float32))
    np.testing.assert_array_equal(compile_for(state, xs)(state, xs), [5, 5, 5])
    assert state.is_deleted()
    assert not xs.is_deleted()


def test_what_cannot_be_mapped_is_refused():
    split = PartitionSpec(BATCH)
    with pytest.raises(ValueError, match=r"map must be .* got 'vmap'"):
        map_over_devices(jnp.sin, batch_mesh("2", 4), (split,), split, map="vmap")
    plane = AbstractMesh((2, 2), (BATCH, LAYERS))
    with pytest.raises(ConfigError, match=r"pmap splits over one axis, but .* batch 2 and layers 2: set one to 1"):
        map_over_devices(jnp.sin, plane, (split,), split, map="pmap")
