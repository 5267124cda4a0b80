"""Layers over devices: ``python -m benchmarks.layers``.

How much faster is a deep stack with its layers on several devices than on one, how near does that come to what the
pipeline allows, does the cost model find the best chunk, and where would more devices take it?
"""

from __future__ import annotations

import argparse
import functools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import command, report, timing
from benchmarks.layers.worker import Program, Shape, Worker, measured_cost, take_step
from benchmarks.report import Column
from benchmarks.subjects import CELLS
from rnnjax.parallel.schedule import ChunkCost, best_chunk, pipeline_seconds

_LATENCY, _BANDWIDTH = 10e-6, 10e9  # assumed between simulated devices: seconds, and bytes a second
_EPILOG = """\
A step is the gradient, with respect to the parameters, of the mean of the squared outputs of a stack. Every contender
is a process of its own, held to its cores: "one core" is one device on one core (as under taskset), "all cores" one
device that may use as many cores as there are devices, "batch" the batch split over the devices, and "layers" the
wavefront, with so many steps in a chunk. They take steps in turns; times are medians. "bound" is D K / (K + D - 1) for
K chunks on D devices, "part" what of it was reached against one core, "model" the time by the measured cost of a chunk.
The simulated rows hand outputs on in 10 us and at 10 GB/s, have a layer a device, and compare with one device that has
all of them.
"""

_COLUMNS = (
    Column("stack", width=18, left=True),
    Column("contender", width=11, left=True),
    Column("devices"),
    Column("a step", "seconds", "s", 8),
    Column("gain", unit=".2f", width=5),
    Column("bound", unit=".2f", width=5),
    Column("part", unit=".0%", width=5),
    Column("model", "model_seconds", "s", 8),
    Column("build", "build_seconds", "s", 7),
)
_SIMULATED = (
    Column("stack", width=18, left=True),
    Column("devices"),
    Column("chunk", width=5),
    Column("simulated", "seconds", "s"),
    Column("gain", unit=".2f", width=5),
    Column("bound", unit=".2f", width=5),
)


class Row(NamedTuple):
    """What was measured of a contender; gains are over one core, and what is of chunks is None of the others."""

    stack: str
    contender: str
    devices: int
    seconds: float
    gain: float
    build_seconds: float
    bound: float | None = None
    part: float | None = None
    model_seconds: float | None = None


class SimulatedRow(NamedTuple):
    """What the measured cost of a chunk comes to on more devices."""

    stack: str
    devices: int
    chunk: int
    seconds: float
    gain: float
    bound: float


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    chunks: list[dict[str, Any]] = []
    simulated: list[SimulatedRow] = []

    def measured() -> Iterator[Row | str]:
        for shape in options.shapes:
            cost, layer_cost, rows = measure(options, shape)
            chunks.append({"stack": str(shape), "cost": cost, "text": verdict(options, shape, cost, rows)})
            simulated.extend(simulate_more(options, shape, layer_cost))
            yield from rows
            yield f"{chunks[-1]['text']}\n"

    report.show(
        options,
        _COLUMNS,
        measured(),
        about="float32; times are medians; gains are over one core",
        last=lambda rows: "\n".join(report.table_lines(_SIMULATED, simulated)),
        chunks=chunks,
        simulated=simulated,
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    small = {"shapes": [Shape("BasicRNN", 2, 4, 2, 6)], "devices": 2, "chunks": [3], "repeats": 1}
    what = "A stack's layers over CPU devices, each held to one core."
    parser = command.FiguresParser("layers", what, _EPILOG, **small)
    add, count = parser.add_argument, command.at_least_one
    shapes = ["LSTM,4,256,32,300", "LSTM,4,128,64,300", "GRU,8,256,32,300"]
    add("--shapes", nargs="+", type=shape_of, default=[*map(shape_of, shapes)], metavar="CELL,LAYERS,H,B,T")
    add("--devices", type=count, default=report.available_cores(), help="devices, a core each; all cores")
    add("--chunks", nargs="+", type=count, default=[6, 10, 15, 20, 30, 50, 75], metavar="C", help="steps in a chunk")
    add("--repeats", type=count, default=15, help="steps of each contender at most; 15")
    parser.add_seconds(90.0, "after so many no turn is begun, up to three")
    add("--simulate", nargs="+", type=count, default=[2, 8, 64], metavar="D", help="devices of simulated rows; 2 8 64")
    return parser.options(arguments)


def shape_of(text: str) -> Shape:
    """Returns a shape such as ``LSTM,4,256,32,300``, for `argparse`."""
    cell, *sizes = text.split(",")
    if cell not in CELLS or len(sizes) != 4:
        raise argparse.ArgumentTypeError(f"expected CELL,LAYERS,H,B,T such as LSTM,4,256,32,300, got {text!r}")
    return Shape(cell, *map(command.at_least_one, sizes))


def measure(options: argparse.Namespace, shape: Shape) -> tuple[ChunkCost, ChunkCost, list[Row]]:
    """Returns what a chunk costs a device with its part of the layers and with one, and a row for every contender."""
    devices = options.devices
    cores = sorted(os.sched_getaffinity(0))[:devices]
    one, batch = Program("one"), Program("batch")
    fronts = [Program("layers", chunk) for chunk in sorted({min(chunk, shape.length) for chunk in options.chunks})]
    one_core, all_cores = (Worker(shape, [one], held, 1) for held in (cores[:1], cores))
    split = Worker(shape, [batch, *fronts], cores, devices)
    contenders = {"one core": (one_core, one), "all cores": (all_cores, one)}
    contenders |= {str(program): (split, program) for program in (batch, *fronts)}
    calls = {name: functools.partial(worker.ask, take_step, program) for name, (worker, program) in contenders.items()}
    times = timing.interleave(calls, repeats=options.repeats, seconds=options.seconds)
    seconds = {name: timing.spread(of).median for name, of in times.items()}
    own = math.ceil(shape.layers / devices)
    cost, layer_cost = (one_core.ask(measured_cost, shape, layers) for layers in (own, 1))
    rows = []
    for name, (worker, program) in contenders.items():
        gain = seconds["one core"] / seconds[name]
        count = 1 if program is one else devices
        row = Row(str(shape), name, count, seconds[name], gain, worker.build_seconds[program])
        if program.chunk:
            limit = bound(shape.length, program.chunk, devices)
            model = pipeline_seconds(shape.length, program.chunk, devices, cost)
            row = row._replace(bound=limit, part=gain / limit, model_seconds=model)
        rows.append(row)
    for worker in (one_core, all_cores, split):
        worker.close()
    return cost, layer_cost, rows


def bound(length: int, chunk: int, devices: int) -> float:
    """Returns the greatest speed-up of D devices over one, ``D K / (K + D - 1)`` for K chunks."""
    chunks = math.ceil(length / chunk)
    return devices * chunks / (chunks + devices - 1)


def verdict(options: argparse.Namespace, shape: Shape, cost: ChunkCost, rows: Sequence[Row]) -> str:
    """Returns what the cost model says is the best chunk, and what was measured to be."""
    fronts = {int(row.contender.split()[1]): row for row in rows if row.bound is not None}
    predicted, default = (best_chunk(shape.length, options.devices, *costs) for costs in ([cost], []))
    likeliest = min(fronts, key=lambda chunk: fronts[chunk].model_seconds or math.inf)
    best = min(fronts, key=lambda chunk: fronts[chunk].seconds)
    lost = fronts[likeliest].seconds / fronts[best].seconds - 1
    gains = {row.contender: row.seconds / fronts[best].seconds for row in rows}
    return (
        f"a chunk of C steps costs {report.si(cost.fixed, 's')} + {report.si(cost.step, 's')} C: best C = {predicted}, "
        f"of those tried {likeliest}, measured {best} (+{lost:.1%}), by default {default}; "
        f"against all cores {gains['all cores']:.2f}x, against the batch split {gains['batch']:.2f}x"
    )


def simulate_more(options: argparse.Namespace, shape: Shape, cost: ChunkCost) -> Iterator[SimulatedRow]:
    """Yields a row for every number of devices, with a layer each of the shape's size."""
    # Gradients come back the way that outputs went.
    handed_on = ChunkCost(cost.fixed + 2 * _LATENCY, cost.step + 2 * 4 * shape.batch * shape.hidden / _BANDWIDTH)
    for devices in options.simulate:
        chunk = best_chunk(shape.length, devices, handed_on)
        seconds = pipeline_seconds(shape.length, chunk, devices, handed_on)
        gain = devices * cost.step * shape.length / seconds
        stack = f"{shape.cell} {devices} x {shape.hidden}"
        yield SimulatedRow(stack, devices, chunk, seconds, gain, bound(shape.length, chunk, devices))


if __name__ == "__main__":
    command.run(main)
