"""Parallel in time: ``python -m benchmarks.time``.

What does a sequence of T steps take by each way to unroll that serves a cell, beside the loop and another library's?
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import command, report, timing
from benchmarks.report import Column
from benchmarks.subjects import mean_square
from benchmarks.time.model import Costs, extra_work, simulate
from benchmarks.time.ways import CELLS, MEMORIES, WIDEST_DENSE, Size, ways
from rnnjax.parallel.mesh import provide_cpu_devices

DIRECTIONS = ("forward", "gradient")
_EPILOG = f"""\
forward is the outputs of all steps, gradient the mean of their squares with its gradient with respect to parameters
and inputs; inputs have as many features as there are units. All ways of one cell and size run in turns in one
process, each call until its result is ready; times are medians, and "/ scan" is scan's time over the way's, above 1
where it is faster. "in order" and "tree" are Associative("scan") and Associative("associative"); "native" is Native,
on a CPU with a C++ compiler; "split" is TimeSplit over all devices, where there are several, for linear and diagonal
cells; "newton" serves cells that are not diagonal up to {WIDEST_DENSE} units here; "chunks" is Chunkwise, for cells
with a memory, which have one head of H x H numbers here. "memax" is that library's LRU, where it is installed, and
"prefix" jax.lax.associative_scan by itself, of given coefficients: no cell.

"floor" is the time in which the device, at the rate that it copies a large array, reads the inputs and writes the
outputs once, in a gradient twice, and "share" is what part of the way's time that is: 1.00 would be a way that does
nothing but read and write. "memory" is the program's temporaries as the compiler plans them.
"""

_COLUMNS = (
    Column("cell", width=8, left=True),
    Column("T", width=8),
    Column("B", width=4),
    Column("H", width=4),
    Column("direction", width=9, left=True),
    Column("way", width=8, left=True),
    Column("run", "run_seconds", "s", 8),
    Column("/ scan", "speed_over_scan", ".2f", 7),
    Column("share", "share_of_floor", ".2f", 6),
    Column("memory", "temp_bytes", "B", 8),
    Column("compile", "compile_seconds", "s", 8),
)

_SIMULATED = (
    Column("cell", width=8, left=True),
    Column("B", width=4),
    Column("H", width=4),
    Column("direction", width=9, left=True),
    Column("devices"),
    Column("takes", "seconds", "s", 8),
    Column("gain", unit=".1f", width=7),
    Column("share", unit=".2f", width=6),
)
_DEVICES, _STEPS = (2, 16, 128, 1024), 10**8
_ITERATIONS = 3  # of Newton's method on a ParaGRU with its initial weights, as `rnnjax.newton_report` counts them
_LATENCY, _BANDWIDTH = 1e-5, 1e11  # assumed: about those between accelerators in one cluster


class Row(NamedTuple):
    """What was measured of one way; `reason` says why it was not run, and the figures are None then."""

    cell: str
    T: int
    B: int
    H: int
    direction: str
    way: str
    run_seconds: float | None = None
    speed_over_scan: float | None = None
    floor_seconds: float | None = None
    share_of_floor: float | None = None
    temp_bytes: int | None = None
    compile_seconds: float | None = None
    reason: str | None = None


class SimulatedRow(NamedTuple):
    """What the model says of a number of devices, from the costs of a split that was measured."""

    cell: str
    B: int
    H: int
    direction: str
    devices: int
    steps: int
    seconds: float
    gain: float
    share: float


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name."""
    options = parse(arguments)
    provide_cpu_devices()  # so that "split" has some
    rate = copy_rate()
    with timing.cold_compilation():
        report.show(
            options,
            _COLUMNS,
            measure_all(options, rate),
            about=f"{report.si(rate, 'B')}/s read and written by a copy, float32",
            last=lambda rows: simulation_text(simulated(rows)),
            copy_bytes_per_second=rate,
            simulated=simulated,
        )


def simulated(rows: Sequence[Row]) -> list[SimulatedRow]:
    """Returns what the model says of the longest sequences that were split."""
    results = []
    for row in rows:
        alone = next((each for each in rows if each[:5] == row[:5] and each.way in ("in order", "newton")), None)
        longest = max(each.T for each in rows)
        if row.way != "split" or longest != row.T or row.run_seconds is None or alone is None or not alone.run_seconds:
            continue
        costs = Costs(
            step_seconds=alone.run_seconds / row.T,
            extra=extra_work(alone.run_seconds, row.run_seconds, jax.device_count()),
            **collectives(row)._asdict(),
            latency=_LATENCY,
            bandwidth=_BANDWIDTH,
        )
        named = (row.cell, row.B, row.H, row.direction)
        results += [SimulatedRow(*named, *simulate(costs, devices, _STEPS)) for devices in _DEVICES]
    return results


class Collectives(NamedTuple):
    """What a split has of them: their number, and the bytes that every device sends in all."""

    collectives: int
    sent_bytes: int


def collectives(row: Row) -> Collectives:
    """Returns the collectives of a row's split: those of the parts' totals, and of what Newton's method asks besides.

    A total is a product and a state; Newton's method gathers totals and last states in every iteration, and asks after
    each whether all devices are done, and in the end whether all have converged (docs/decisions.md).
    """
    gradient, state = row.direction == "gradient", 4 * row.B * row.H
    if row.cell != "ParaGRU":
        totals = 1 + gradient
        return Collectives(totals, totals * (4 if row.cell == "LRU" else 2) * state)
    return Collectives(3 * _ITERATIONS + 2 + 3 * gradient, (_ITERATIONS + gradient) * 3 * state)


def simulation_text(results: Sequence[SimulatedRow]) -> str:
    """Returns the simulated rows as a table; nothing where nothing was split."""
    if not results:
        return ""
    title = (
        f"simulated, not measured: {_STEPS:.0e} steps on many such devices, from the costs of a step and of the split "
        f"above, {report.si(_LATENCY, 's')} for a message and {report.si(_BANDWIDTH, 'B')}/s between devices"
    )
    return "\n".join(["", title, *report.table_lines(_SIMULATED, results)])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    what = "Time, memory and compile time of sequences over their length, by every way to unroll."
    small = {"lengths": [16], "batches": [1], "hidden": [4], "seconds": 0.001}
    parser = command.FiguresParser("time", what, _EPILOG, **small)
    add, count, lengths = parser.add_argument, command.at_least_one, [2**n for n in range(8, 21, 4)]
    add("--cells", nargs="+", choices=CELLS + MEMORIES, default=list(CELLS))
    add("--lengths", nargs="+", type=count, default=lengths, metavar="T", help="2^8 2^12 2^16 2^20")
    add("--batches", nargs="+", type=count, default=[1, 16], metavar="B")
    add("--hidden", nargs="+", type=count, default=[16, 64, 256], metavar="H")
    add("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    add("--ways", nargs="+", default=[], metavar="WAY", help="of those that serve; all")
    parser.add_seconds(3.0, "of measuring a size, after three rounds")
    limit = "leave out sizes of more numbers than this, T x B x H; 2^26"
    add("--largest", type=count, default=2**26, metavar="NUMBERS", help=limit)
    return parser.options(arguments)


def measure_all(options: argparse.Namespace, rate: float) -> Iterator[Row]:
    """Yields the rows of every cell, size and direction."""
    for size in itertools.starmap(Size, itertools.product(options.lengths, options.batches, options.hidden)):
        if math.prod(size) > options.largest:
            continue
        for name, direction in itertools.product(options.cells, options.directions):
            yield from measure(name, size, direction, options, rate)


def measure(name: str, size: Size, direction: str, options: argparse.Namespace, rate: float) -> list[Row]:
    """Returns the rows of one cell, size and direction, whose ways are timed in turns."""
    numbers = np.random.default_rng(0).standard_normal(size, np.float32)
    row = functools.partial(Row, name, *size, direction)
    builds, rows = {}, []
    for way, (function, params) in ways(name, size).items():
        if options.ways and way not in options.ways:
            continue
        try:
            program = function if direction == "forward" else jax.value_and_grad(mean_square(function), (0, 1))
            builds[way] = timing.build(program, params, numbers), params
        except ValueError as error:  # why a method cannot serve
            rows.append(row(way, reason=str(error)))
    calls = {way: functools.partial(built.run, params, numbers) for way, (built, params) in builds.items()}
    times = timing.in_turns(calls, seconds=options.seconds)
    medians = {way: timing.spread(each).median for way, each in times.items()}
    floor = 2 * numbers.nbytes * (2 if direction == "gradient" else 1) / rate
    scan = medians.get("scan")
    for way, (built, _) in builds.items():
        seconds = medians[way]
        rows.append(
            row(
                way,
                run_seconds=seconds,
                speed_over_scan=None if scan is None else scan / seconds,
                floor_seconds=floor,
                share_of_floor=floor / seconds,
                temp_bytes=None if built.memory is None else built.memory.temp_bytes,
                compile_seconds=built.seconds,
            )
        )
    return rows


def copy_rate() -> float:
    """Returns the bytes a second that are read and written by a copy of a large array into memory that is there."""
    numbers = jnp.zeros(2**25, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call() -> Array:
        nonlocal numbers
        numbers = add(numbers)
        return numbers

    return 2 * numbers.nbytes / timing.usual(call)


if __name__ == "__main__":
    command.run(main)
