"""Measures the time that a device needs for a chunk of a sequence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks import timing
from rnnjax.cells.cell import Cell
from rnnjax.cells.wrappers import Stack
from rnnjax.parallel.layers import Wavefront
from rnnjax.parallel.mesh import LAYERS
from rnnjax.parallel.schedule import ChunkCost
from rnnjax.unrolling.sequences import unroll

_LENGTH = 96  # steps
_CHUNKS = (6, 48)  # steps in a chunk
_TURNS = 5


def measured_cost(cells: tuple[Cell, ...], batch_size: int, input_size: int) -> ChunkCost:
    """Returns the cost of a chunk, forward and backward, on a device that has some layers.

    T steps in K chunks take ``K fixed + T step`` on one device, so that two chunk sizes determine both numbers. The
    two are run alternately, and the best time of each counts.

    Args:
      cells: the layers of one device.
      batch_size: number B of sequences.
      input_size: number I of features that the first layer reads.
    """
    stack = Stack(cells)
    params = stack.init(jax.random.key(0), input_size)
    xs = jax.random.normal(jax.random.key(1), (batch_size, _LENGTH, input_size))
    runs = {chunk: functools.partial(_step(stack, chunk), params, xs) for chunk in _CHUNKS}
    best = {chunk: min(seconds) for chunk, seconds in timing.interleave(runs, repeats=_TURNS).items()}
    return solved(_LENGTH, best)


def solved(length: int, seconds: dict[int, float]) -> ChunkCost:
    """Returns the cost that explains the seconds of `length` steps, measured with each of two chunk sizes."""
    (small, at_small), (large, at_large) = seconds.items()
    # Seconds are measured, and may say that small chunks are the faster ones.
    fixed = max((at_small - at_large) / (length / small - length / large), 0.0)
    return ChunkCost(fixed, (at_large - fixed * length / large) / length)


def _step(stack: Stack, chunk: int) -> Callable[..., Any]:
    """Returns the gradient of a loss on all outputs, compiled for one device."""

    def loss(params: Any, xs: Any) -> Any:
        ys, _ = unroll(stack, params, xs, method=Wavefront(LAYERS, chunk))
        return jnp.mean(jnp.square(ys))

    # Over one device `Wavefront` cuts into chunks and sends nothing.
    mesh = jax.make_mesh((1,), (LAYERS,), devices=jax.devices()[:1])
    everywhere = PartitionSpec()
    return jax.jit(jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=everywhere, out_specs=everywhere))
