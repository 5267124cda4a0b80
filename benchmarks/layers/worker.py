"""A process of `benchmarks.layers`: so many cores and devices, on which it takes steps when it is told to.

It reads what to build as one line of JSON, then names of programs, one a line; it answers each with one line of JSON.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

# What the cost of a chunk is measured with: steps, steps in a chunk, turns.
_LENGTH, _CHUNKS, _TURNS = 96, (6, 48), 5


class Shape(NamedTuple):
    """The size of a stack of alike layers and of its inputs."""

    cell: str
    layers: int
    hidden: int
    batch: int
    length: int


class Program(NamedTuple):
    """How a step is spread over the devices: "one", "batch", or "layers" with so many steps in a chunk."""

    kind: str
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.chunk}" if self.chunk else self.kind


class Worker:
    """A process with cores and devices of its own, that takes steps of the programs it was started for."""

    def __init__(self, shape: Shape, programs: list[Program], cores: list[int], devices: int):
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "benchmarks.layers.worker", ",".join(map(str, cores))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process: Any = subprocess.Popen(command, env=environment, **pipes)
        self.build_seconds = self._ask(json.dumps({"shape": shape, "programs": programs, "devices": devices}))

    def step(self, program: Program) -> float:
        """Takes a step; returns its seconds."""
        return self._ask(str(program))

    def cost(self, layers: int) -> list[float]:
        """Returns what `measured_cost` says of so many layers: the fixed seconds of a chunk, and those of a step."""
        return self._ask(f"cost {layers}")

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, line: str) -> Any:
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker of the benchmark stopped with code {self._process.wait()}; see what it printed")
        return json.loads(answer)


def main(cores: str) -> None:
    """Serves as one worker, on some cores only, as `taskset -c CORES` would have it."""
    os.sched_setaffinity(0, set(map(int, cores.split(","))))  # before JAX starts its threads
    from benchmarks import timing

    given = json.loads(sys.stdin.readline())
    shape = Shape(*given["shape"])
    steps, seconds = {}, {}
    for program in (Program(*fields) for fields in given["programs"]):
        step = build(shape, program, given["devices"])
        seconds[str(program)] = timing.duration(step)  # builds it
        steps[str(program)] = step
    print(json.dumps(seconds), flush=True)
    for line in sys.stdin:
        kind, *layers = line.split()
        answer = measured_cost(shape, int(layers[0])) if kind == "cost" else timing.duration(steps[line.strip()])
        print(json.dumps(answer), flush=True)


def build(shape: Shape, program: Program, devices: int) -> Callable[[], Any]:
    """Returns a step: the gradient, with respect to the parameters, of the mean of the squared outputs."""
    import jax
    from jax.sharding import AxisType, PartitionSpec

    import rnnjax
    from benchmarks.subjects import mean_square
    from rnnjax.parallel.layers import Wavefront
    from rnnjax.parallel.mesh import BATCH, LAYERS, sum_over

    stack = rnnjax.Stack((getattr(rnnjax, shape.cell)(shape.hidden),) * shape.layers)
    params = stack.init(jax.random.key(0), shape.hidden)
    xs = jax.random.normal(jax.random.key(1), (shape.batch, shape.length, shape.hidden))
    method = Wavefront(chunk=program.chunk) if program.kind == "layers" else None
    gradient = jax.grad(mean_square(lambda params, xs: rnnjax.unroll(stack, params, xs, method=method)[0]))

    def of_a_part(params: Any, xs: Any) -> Any:
        sums = sum_over(BATCH, gradient(jax.lax.pcast(params, BATCH, to="varying"), xs))
        return jax.tree.map(lambda leaf: leaf / devices, sums)

    if program.kind == "one":
        step = jax.jit(gradient)
    else:
        axis = LAYERS if program.kind == "layers" else BATCH
        mesh = jax.make_mesh((devices,), (axis,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        everywhere = PartitionSpec()
        split = everywhere if program.kind == "layers" else PartitionSpec(BATCH)
        function = gradient if program.kind == "layers" else of_a_part
        step = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(everywhere, split), out_specs=everywhere))
    return functools.partial(step, params, xs)


def measured_cost(shape: Shape, layers: int) -> tuple[float, float]:
    """Returns the seconds of a chunk, forward and backward, on a device with so many layers: fixed, and of a step.

    T steps in K chunks take ``K fixed + T step`` on one device, so that two chunk sizes determine both numbers. The
    two are run alternately, and the best time of each counts.
    """
    from benchmarks import timing

    part = shape._replace(layers=layers, length=_LENGTH)
    # Over one device `Wavefront` cuts into chunks and sends nothing.
    runs = {chunk: build(part, Program("layers", chunk), 1) for chunk in _CHUNKS}
    times = timing.interleave(runs, repeats=_TURNS)
    return solved(_LENGTH, {chunk: min(seconds) for chunk, seconds in times.items()})


def solved(length: int, seconds: dict[int, float]) -> tuple[float, float]:
    """Returns the cost that explains the seconds of `length` steps, measured with each of two chunk sizes."""
    (small, at_small), (large, at_large) = seconds.items()
    # Seconds are measured, and may say that small chunks are the faster ones.
    fixed = max((at_small - at_large) / (length / small - length / large), 0.0)
    return fixed, (at_large - fixed * length / large) / length


if __name__ == "__main__":
    main(sys.argv[1])
