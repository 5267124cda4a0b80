"""A process of `benchmarks.layers`: so many cores and devices, on which it takes steps when it is told to."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, PartitionSpec

import rnnjax
from benchmarks import timing
from benchmarks.subjects import mean_square
from rnnjax.parallel.layers import Wavefront
from rnnjax.parallel.mesh import BATCH, LAYERS, sum_over
from rnnjax.parallel.schedule import ChunkCost

# What the cost of a chunk is measured with: steps, steps in a chunk, turns.
_LENGTH, _CHUNKS, _TURNS = 96, (6, 48), 5


class Shape(NamedTuple):
    """The size of a stack of alike layers and of its inputs."""

    cell: str
    layers: int
    hidden: int
    batch: int
    length: int

    def __str__(self) -> str:
        return f"{self.cell} {self.layers} x {self.hidden}, {self.batch} x {self.length}"


class Program(NamedTuple):
    """How a step is spread over the devices: "one", "batch", or "layers" with so many steps in a chunk."""

    kind: str
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.chunk}" if self.chunk else self.kind


class Worker:
    """A process with cores and devices of its own, as `taskset` would have it, that takes steps of some programs."""

    def __init__(self, shape: Shape, programs: Sequence[Program], cores: Sequence[int], devices: int):
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (cores, devices))
        self.build_seconds = {program: self.ask(_add, shape, program, devices) for program in programs}

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what a function returns there."""
        return self._pool.submit(function, *arguments).result()

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


_steps: dict[Program, Callable[[], Any]] = {}  # of this process


def _begin(cores: Sequence[int], devices: int) -> None:
    os.sched_setaffinity(0, cores)  # before JAX starts its threads
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def _add(shape: Shape, program: Program, devices: int) -> float:
    """Builds a program; returns the seconds of that and of a first step."""
    _steps[program] = build(shape, program, devices)
    return timing.duration(_steps[program])


def take_step(program: Program) -> None:
    """Takes a step of a program."""
    jax.block_until_ready(_steps[program]())


def build(shape: Shape, program: Program, devices: int) -> Callable[[], Any]:
    """Returns a step: the gradient, with respect to the parameters, of the mean of the squared outputs."""
    stack = rnnjax.Stack((getattr(rnnjax, shape.cell)(shape.hidden),) * shape.layers)
    params = stack.init(jax.random.key(0), shape.hidden)
    xs = jax.random.normal(jax.random.key(1), (shape.batch, shape.length, shape.hidden))
    method = Wavefront(chunk=program.chunk) if program.kind == "layers" else None
    gradient = jax.grad(mean_square(lambda params, xs: rnnjax.unroll(stack, params, xs, method=method)[0]))

    def of_a_part(params: Any, xs: Any) -> Any:
        sums = sum_over(BATCH, gradient(jax.lax.pcast(params, BATCH, to="varying"), xs))
        return jax.tree.map(lambda leaf: leaf / devices, sums)

    if program.kind == "one":
        return functools.partial(jax.jit(gradient), params, xs)
    everywhere = PartitionSpec()
    function, axis, split = (
        (gradient, LAYERS, everywhere) if program.kind == "layers" else (of_a_part, BATCH, PartitionSpec(BATCH))
    )
    mesh = jax.make_mesh((devices,), (axis,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    step = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(everywhere, split), out_specs=everywhere))
    return functools.partial(step, params, xs)


def measured_cost(shape: Shape, layers: int) -> ChunkCost:
    """Returns the seconds of a chunk, forward and backward, on a device with so many layers.

    T steps in K chunks take ``K fixed + T step`` on one device, so that two chunk sizes determine both numbers. The
    two are run alternately, and the best time of each counts.
    """
    part = shape._replace(layers=layers, length=_LENGTH)
    # Over one device `Wavefront` cuts into chunks and sends nothing.
    runs = {chunk: build(part, Program("layers", chunk), 1) for chunk in _CHUNKS}
    times = timing.interleave(runs, repeats=_TURNS)
    return solved(_LENGTH, {chunk: min(seconds) for chunk, seconds in times.items()})


def solved(length: int, seconds: dict[int, float]) -> ChunkCost:
    """Returns the cost that explains the seconds of `length` steps, measured with each of two chunk sizes."""
    (small, at_small), (large, at_large) = seconds.items()
    # Seconds are measured, and may say that small chunks are the faster ones.
    fixed = max((at_small - at_large) / (length / small - length / large), 0.0)
    return ChunkCost(fixed, (at_large - fixed * length / large) / length)
