"""Cells over devices beside the same on one, for the tests of `Wavefront` and `TimeSplit`."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Stack, unroll
from rnnjax.parallel.layers import Wavefront
from rnnjax.parallel.mesh import sum_over

B, T, I = 4, 6, 3
LENGTHS = np.array([6, 0, 3, 5])
RESETS = np.random.default_rng(0).random((B, T)) < 0.3
EVERYTHING = {"lengths": LENGTHS, "resets": RESETS, "key": jax.random.key(3), "reverse": True}

MIXED = Stack(
    (
        Dropout(LSTM(4), state_rate=0.3, output_rate=0.3),
        LearnedState(GRU(5)),
        Dropout(Project(BasicRNN(3), 2), input_rate=0.3, variational=True),
    )
)
ALIKE = Stack((BasicRNN(4),) * 4)

EVERYWHERE = PartitionSpec()


def drawn(like, seed=1):
    """Returns random arrays of the shapes given, in float64."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.standard_normal(leaf.shape)), like)


def arguments(cell):
    """Returns parameters, inputs and a state, with every entry drawn at random."""
    params = jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0))
    return drawn((params, jax.ShapeDtypeStruct((B, T, I), float), cell.initial_state(B)))


def total(cell, options, method, params, xs, state):
    """Returns a loss on outputs and final state that weighs all of them differently, and both of them."""
    ys, last = unroll(cell, params, xs, state, method=method, **options)
    weight = jnp.cos(jnp.arange(T * cell.output_size)).reshape(T, -1)
    return (weight * ys).sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)


def outcome(cell, options, method, params, xs, state):
    """Returns outputs, final state and all gradients of the loss."""
    loss = functools.partial(total, cell, options, method)
    gradients, values = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, state)
    return values, gradients


def by_shard_map(function, axis, devices, *given):
    """Returns what every device computes, by a map that keeps account of what varies."""
    mesh = jax.make_mesh((devices,), (axis,), devices=jax.devices()[:devices])
    mapped = jax.shard_map(function, mesh=mesh, in_specs=EVERYWHERE, out_specs=EVERYWHERE)
    return [jax.jit(mapped)(*given)]


def by_pmap(function, axis, devices, *given):
    """Returns what every device computes, by a map that does not."""
    mapped = jax.pmap(lambda _, *given: function(*given), axis, in_axes=(0, *[None] * len(given)))
    results = mapped(jnp.arange(devices), *given)
    return [jax.tree.map(lambda leaf, d=d: leaf[d], results) for d in range(devices)]


def on_one_device(cell, options, given):
    """Returns the outcome without a split, which is computed once for all splits of a cell under options of a name."""
    key = (cell, *options)
    if key not in _ON_ONE_DEVICE:
        _ON_ONE_DEVICE[key] = jax.jit(functools.partial(outcome, cell, options, None))(*given)
    return _ON_ONE_DEVICE[key]


_ON_ONE_DEVICE = {}


MAPS = {"shard_map": by_shard_map, "pmap": by_pmap}


def check(cell, devices, mapped, method=Wavefront(chunk=2), **options):  # noqa: B008
    """Asserts that every device has the values and gradients of one device by itself."""
    with jax.enable_x64(True):
        given = arguments(cell)
        expected = on_one_device(cell, options, given)
        of_device = functools.partial(outcome, cell, options, method)
        for got in MAPS[mapped](of_device, method.axis, devices, *given):
            close(got, expected)
    for leaf in jax.tree.leaves(expected):
        assert np.any(np.asarray(leaf) != 0)


def check_with_batch(cell, **options):
    """Asserts the same of two devices for the layers and two for the batch, parameters being each device's own."""
    mesh = jax.make_mesh((2, 2), ("batch", "layers"), axis_types=(AxisType.Auto,) * 2)

    def local(params, xs, state, lengths):
        params = jax.lax.pcast(params, "batch", to="varying")
        values, (d_params, *rest) = outcome(cell, {"lengths": lengths, **options}, Wavefront(), params, xs, state)
        return values, (sum_over("batch", d_params), *rest)

    part = PartitionSpec("batch")
    specs = (EVERYWHERE, part, part, part), ((part, part), (EVERYWHERE, part, part))
    with jax.enable_x64(True):
        given = arguments(cell)
        mapped = jax.shard_map(local, mesh=mesh, in_specs=specs[0], out_specs=specs[1])
        expected = jax.jit(functools.partial(outcome, cell, {"lengths": LENGTHS, **options}, None))(*given)
        close(jax.jit(mapped)(*given, jnp.asarray(LENGTHS)), expected)


def close(got, expected):
    """Asserts that two trees are the same within rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), got, expected)


if __name__ == "__main__":  # by itself, with more devices than the tests have
    jax.config.update("jax_disable_most_optimizations", True)
    for name in sys.argv[1:]:
        check_with_batch(ALIKE) if name == "batch" else check(ALIKE, 4, name)
    print("the same")
