"""A stack over devices gives what it gives on one."""

import dataclasses
import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pipelines
import pytest
from fixtures.parameters import drawn_parameters
from fixtures.thorough import once_more
from jax.sharding import PartitionSpec
from pipelines import ALIKE, EVERYTHING, MIXED, B, T, check, close

from rnnjax import GRU, LSTM, BasicRNN, Cell, GatedCell, HiddenState, Stack, unroll
from rnnjax.parallel.layers import Wavefront


@pytest.mark.parametrize("mapped", ["shard_map", once_more("pmap")])
def test_unequal_layers_with_lengths_resets_dropout_and_a_last_chunk_that_is_short(mapped):
    check(MIXED, 2, mapped, Wavefront(chunk=4), **EVERYTHING)


def test_four_layers_on_two_devices():
    check(ALIKE, 2, "shard_map")


def test_two_layers_on_two_devices_in_chunks_of_the_default_size():
    check(Stack((BasicRNN(4), GRU(3))), 2, "pmap", Wavefront())


@pytest.mark.thorough
def test_four_devices_for_four_layers_and_two_by_two_for_layers_and_batch():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, pipelines.__file__, *pipelines.MAPS, "batch"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert ended.stdout == "the same\n", ended.stderr


def on_two_devices(function):
    mesh = jax.make_mesh((2,), ("layers",), devices=jax.devices()[:2])
    return jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())


def test_the_gradient_may_be_taken_outside_of_the_map():
    cell = Stack((BasicRNN(4), BasicRNN(3)))
    with jax.enable_x64(True):
        params, xs, state = pipelines.arguments(cell)

        def gradient(method, around):
            return jax.grad(around(lambda params: pipelines.total(cell, {}, method, params, xs, state)[0]))

        got = jax.jit(gradient(Wavefront(), on_two_devices))(params)
        close(got, jax.jit(gradient(None, lambda function: function))(params))


@dataclasses.dataclass(frozen=True)
class Recovering(GatedCell):
    """h' = exp(z): of an input that is too much, nothing is left in the next step."""

    gate_count = 1

    def gates(self, params, state, z, r):
        return HiddenState(jnp.exp(z[..., 0, :]))


def test_what_is_lost_before_a_reset_is_lost_in_the_chunks_after_it_too():
    cell = Stack((Recovering(4), BasicRNN(3)))
    with jax.enable_x64(True):
        params, xs, state = pipelines.arguments(cell)
        xs = xs.at[0, 0].set(1e6 * jnp.sign(params[0].w_x[:, 0, 0]))
        resets = np.arange(T) == np.full((B, 1), T - 1)

        def found(method, params):
            ys, last = unroll(cell, params, xs, state, resets=resets, method=method)
            return ys[:, -1].sum() + sum(leaf.sum() for leaf in jax.tree.leaves(last)), ys

        expected = jax.jit(jax.grad(functools.partial(found, None), has_aux=True))(params)
        got = jax.grad(functools.partial(found, Wavefront(chunk=2)), has_aux=True)
        (of_one_device,) = pipelines.by_shard_map(got, "layers", 2, params)
        close(of_one_device, expected)
        np.testing.assert_array_equal(np.isnan(expected[1][0]).all(-1), np.arange(T) < T - 1)


def test_types_are_those_of_one_device():
    cell = Stack((LSTM(4, dtype="bfloat16"), GRU(3)))
    given = jax.eval_shape(lambda: (cell.init(jax.random.key(0), 2), jnp.ones((B, T, 2))))
    expected = jax.eval_shape(functools.partial(unroll, cell), *given)
    got = jax.eval_shape(on_two_devices(functools.partial(unroll, cell, method=Wavefront())), *given)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), got) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )


class CountState(NamedTuple):
    h: jax.Array
    count: jax.Array


@dataclasses.dataclass(frozen=True)
class Counting(Cell):
    """A cell whose state has a part without gradients: it counts its steps."""

    output_size = 4

    def init(self, key, input_size):
        return jnp.full(4, 0.5)

    def initial_state(self, batch_size, dtype=jnp.float32):
        return CountState(jnp.zeros((batch_size, 4), dtype), jnp.zeros(batch_size, jnp.int32))

    def inputs(self, params, xs, *, key=None):
        return xs.sum(-1, keepdims=True)

    def step(self, params, state, z):
        h = jnp.tanh(params * state.h + z)
        return CountState(h, state.count + 1), h


def test_a_state_may_have_parts_without_gradients():
    cell = Stack((Counting(), BasicRNN(3)))
    params, xs = drawn_parameters(lambda key: cell.init(key, 2)), jnp.ones((B, T, 2))

    def run(method, params):
        ys, state = unroll(cell, params, xs, method=method)
        return ys.sum(), state[0].count

    got, count = jax.jit(on_two_devices(jax.grad(functools.partial(run, Wavefront()), has_aux=True)))(params)
    assert count.tolist() == [T] * B
    expected = jax.jit(jax.grad(functools.partial(run, None), has_aux=True))(params)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


def test_no_weight_is_kept_for_every_chunk():
    cell, chunk, ticks = Stack((LSTM(16),) * 4), 2, T // 2 + 1
    params, xs, state = pipelines.arguments(cell)
    gradient = jax.grad(lambda params: pipelines.total(cell, {}, Wavefront(chunk=chunk), params, xs, state)[0])
    text = str(jax.make_jaxpr(on_two_devices(gradient))(params))
    kept = {tuple(map(int, shape.split(","))) for shape in re.findall(rf"f32\[{ticks},([\d,]+)\]", text)}
    assert (chunk, B, 16) in kept
    sizes = {leaf.size for layer in params for leaf in (layer.w_x, layer.w_h)}
    assert not sizes & {math.prod(shape) for shape in kept}


@pytest.mark.parametrize(
    ("cell", "error", "message"),
    [
        (LSTM(3), TypeError, r"layers are split over devices for a Stack, got LSTM\("),
        (Stack((LSTM(3),)), ValueError, "a Stack of 1 layers cannot be split over 2 devices; take 1 devices at most"),
    ],
)
def test_what_cannot_be_split_is_refused(cell, error, message):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 2))
    run = on_two_devices(lambda params: unroll(cell, params, jnp.ones((B, T, 2)), method=Wavefront())[0])
    with pytest.raises(error, match=message):
        jax.eval_shape(run, params)


def test_a_map_over_the_axis_is_needed():
    with pytest.raises(ValueError, match="Wavefront needs a mapped axis 'layers'; call unroll inside"):
        unroll(ALIKE, ALIKE.init(jax.random.key(0), 2), jnp.ones((B, T, 2)), method=Wavefront())


def test_chunks_and_inner_methods_are_checked():
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        Wavefront(chunk=0)
    with pytest.raises(TypeError, match="method must be an unrolling method"):
        Wavefront(inner="scan")
