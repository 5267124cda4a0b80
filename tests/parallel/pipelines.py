"""Stacks over devices beside the same on one, for the tests of `Wavefront`."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from rnnjax import GRU, LSTM, BasicRNN, Dropout, LearnedState, Project, Stack, TimedKey, unroll
from rnnjax.parallel.layers import Wavefront

B, T, I = 3, 7, 5
LENGTHS = np.array([7, 0, 4])
RESETS = np.random.default_rng(0).random((B, T)) < 0.3
KEY = jax.random.key(3)

MIXED = Stack(
    (
        Dropout(LSTM(4), input_rate=0.3, state_rate=0.3, output_rate=0.3),
        LearnedState(GRU(6)),
        Dropout(Project(BasicRNN(3), 2), output_rate=0.3, variational=True),
    )
)
ALIKE = Stack((LSTM(4),) * 4)


def drawn(like, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.standard_normal(leaf.shape), leaf.dtype), like)


def arguments(cell):
    """Returns parameters, inputs and a state, with every entry drawn at random."""
    params = jax.eval_shape(lambda key: cell.init(key, I), jax.random.key(0))
    params, state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, float), (params, cell.initial_state(B)))
    return drawn((params, jax.ShapeDtypeStruct((B, T, I), float), state), 1)


def outcome(cell, options, method, params, xs, state):
    """Returns outputs, final state and all gradients of a loss on both."""

    def loss(params, xs, state):
        ys, last = unroll(cell, params, xs, state, method=method, **options)
        weighed = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape) * ys
        return weighed.sum() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(last)), (ys, last)

    gradients, values = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, state)
    return values, gradients


def by_shard_map(function, devices):
    mesh = jax.make_mesh((devices,), ("layers",), devices=jax.devices()[:devices])
    mapped = jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())
    return lambda *arguments: [jax.jit(mapped)(*arguments)]


def by_pmap(function, devices):
    def on_device(_, *arguments):
        return function(*arguments)

    def each(*arguments):
        mapped = jax.pmap(on_device, "layers", in_axes=(0, *[None] * len(arguments)), devices=jax.devices()[:devices])
        results = mapped(jnp.arange(devices), *arguments)
        return [jax.tree.map(lambda leaf, d=d: leaf[d], results) for d in range(devices)]

    return each


MAPS = {"shard_map": by_shard_map, "pmap": by_pmap}


def check(cell, devices, mapped, chunk=2, **options):
    """Asserts that every device has the values and gradients of one device by itself."""
    with jax.enable_x64(True):
        given = arguments(cell)
        expected = jax.jit(functools.partial(outcome, cell, options, None))(*given)
        method = Wavefront(chunk=chunk)
        for got in MAPS[mapped](functools.partial(outcome, cell, options, method), devices)(*given):
            close(got, expected)
    for leaf in jax.tree.leaves(expected):
        assert np.any(np.asarray(leaf) != 0)


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), got, expected)


if __name__ == "__main__":  # with more devices than the tests have
    jax.config.update("jax_disable_most_optimizations", True)
    for mapped in MAPS:
        check(ALIKE, int(sys.argv[1]), mapped)
    print("the same")
