"""What a chunk of time costs a device, measured."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rnnjax.cells.cell import Cell
from rnnjax.cells.wrappers import Stack
from rnnjax.parallel.layers import Wavefront
from rnnjax.parallel.mesh import LAYERS
from rnnjax.parallel.schedule import ChunkCost
from rnnjax.unrolling.sequences import unroll

_LENGTH, _CHUNKS, _TURNS = 96, (6, 48), 5


@functools.lru_cache
def measured_cost(cells: tuple[Cell, ...], batch_size: int, input_size: int) -> ChunkCost:
    """Returns what a chunk costs a device that holds some layers, forward and backward.

    A sequence of T steps in K chunks on one device takes ``K fixed + T step``, so two sizes of chunks give both. They
    run in turns, and each counts by its best time. Measured once in a process for the same arguments.

    Args:
      cells: the layers of one device.
      batch_size: number B of sequences.
      input_size: number I of features that the first of them reads.
    """
    stack = Stack(cells)
    params = stack.init(jax.random.key(0), input_size)
    xs = jax.random.normal(jax.random.key(1), (batch_size, _LENGTH, input_size))
    runs = {chunk: functools.partial(_step(stack, chunk), params, xs) for chunk in _CHUNKS}
    for run in runs.values():
        jax.block_until_ready(run())
    turns = [[_seconds(run) for run in runs.values()] for _ in range(_TURNS)]
    return solved(_LENGTH, dict(zip(runs, map(min, zip(*turns)))))


def solved(length: int, seconds: dict[int, float]) -> ChunkCost:
    """Returns the cost at which T = `length` steps take the `seconds` for both of two sizes of chunks."""
    (small, at_small), (large, at_large) = seconds.items()
    fixed = max((at_small - at_large) / (length / small - length / large), 0.0)
    return ChunkCost(fixed, (at_large - fixed * length / large) / length)


def _step(stack: Stack, chunk: int) -> Callable[..., Any]:
    """Returns the gradient of a loss on all outputs, compiled for one device."""

    def loss(params: Any, xs: Any) -> Any:
        ys, _ = unroll(stack, params, xs, method=Wavefront(LAYERS, chunk))
        return jnp.mean(jnp.square(ys))

    mesh = jax.make_mesh((1,), (LAYERS,), devices=jax.devices()[:1])
    everywhere = PartitionSpec()
    return jax.jit(jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=everywhere, out_specs=everywhere))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
