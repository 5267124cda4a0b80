"""Static unrolling against scan: ``python -m benchmarks.unroll``.

How long does each take to compile and to run, from short sequences to long, and from which T on is a loop in the
program worth more than T copies of the step?
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks import command, report, timing
from benchmarks.report import Column
from benchmarks.subjects import LOOPS, mean_square
from benchmarks.unroll.rows import AMORTISED_CALLS, DIRECTIONS, METHODS, Row, crossovers, plot, summary_text
from rnnjax import GRU, LSTM, BasicRNN, Cell, Method, unroll

CELLS: dict[str, Callable[[int], Cell]] = {
    "BasicRNN": BasicRNN,
    "LSTM": LSTM,
    "LSTM+peephole": functools.partial(LSTM, peephole=True),
    "GRU": GRU,
}
_EPILOG = f"""\
forward is unroll(cell, params, xs); forward+backward is the mean of the squared outputs with its gradient with respect
to the parameters. Methods of one cell, T and direction run in turns in one process, each call until its result is
ready; times are medians. Every build starts with empty caches.

The JSON file is one object: "machine" (device, cores, load, versions), "options", "rows" and "summary". A row is one
(cell, T, method, direction): trace_seconds, lower_seconds, compile_seconds, run_seconds (median) with its quartiles
run_seconds_low and run_seconds_high over `runs` runs, run_seconds_per_step, ratio_to_scan (run time over that of scan),
argument_bytes, output_bytes, temp_bytes and their sum peak_bytes as the compiler plans them, device_peak_bytes (what
the device's allocator ever held in this process; null on a CPU), reason (why it was not run, else null; all figures
are null then) and predicted_seconds (to trace, lower and compile; static only). A summary is one (cell, direction):
the T at which static was compiled ("measured"), and of those the T at which it is faster than the best scan that has a
loop (unroll below T), by run time ("run") and with the build spread over {AMORTISED_CALLS} calls ("amortised").
"""

_COLUMNS = (
    Column("cell", width=13, left=True),
    Column("T", width=5),
    Column("direction", width=16, left=True),
    Column("method", width=8, left=True),
    Column("trace", "trace_seconds", "s", 7),
    Column("lower", "lower_seconds", "s", 7),
    Column("compile", "compile_seconds", "s", 7),
    Column("run", "run_seconds", "s", 7),
    Column("a step", "run_seconds_per_step", "s", 7),
    Column("/ scan", "ratio_to_scan", ".2f"),
    Column("memory", "peak_bytes", "B", 7),
)


class Subject(NamedTuple):
    """A cell that is measured, with its name and parameters."""

    name: str
    cell: Cell
    params: Any


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name."""
    options = parse(arguments)
    about = (
        f"batch {options.batch}, input {options.input}, hidden {options.hidden}, float32; times are medians; / scan: "
        "run time over that of scan\nmemory: arguments + outputs + temporaries, as the compiler plans them"
    )

    def last(rows: list[Row]) -> str:
        if options.plot is not None:
            plot(rows, options.plot)
        return summary_text(crossovers(rows))

    table = _COLUMNS
    report.show(options, table, measure_all(options), about=about, last=last, summary=crossovers)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    what = "Static unrolling against scan: time to trace, compile and run, and memory, over T."
    small = {"lengths": [2, 5], "batch": 2, "input": 3, "hidden": 4, "repeats": 1}
    parser = command.FiguresParser("unroll", what, _EPILOG, **small)
    add, count = parser.add_argument, command.at_least_one
    add("--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL", help=f"of {', '.join(CELLS)}; all")
    add("--lengths", nargs="+", type=count, default=[2, 28, 100, 300, 1000], metavar="T", help="2 28 100 300 1000")
    add("--batch", type=count, default=150, help="sequences in a batch; 150")
    add("--input", type=count, default=28, help="input features; 28")
    add("--hidden", type=count, default=150, help="hidden units; 150")
    add("--repeats", type=count, default=1000, help="runs of each method at most; 1000")
    limit = "of measuring a cell, T and direction, after which no round of the methods is begun, except up to three"
    parser.add_seconds(6.0, limit)
    limit = "seconds that tracing, lowering and compiling static may take, as predicted from smaller T, to be tried; 60"
    add("--compile-limit", type=command.not_negative, default=60.0, metavar="SECONDS", help=limit)
    add("--plot", type=command.plot_path, metavar="PATH", help="draw the crossover here: .png, .svg or .pdf")
    options = parser.options(arguments)
    options.cells = list(dict.fromkeys(options.cells))
    options.lengths = sorted(set(options.lengths))
    return options


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of one cell, T and direction after another."""
    with timing.cold_compilation():
        for name in options.cells:
            cell = CELLS[name](options.hidden)
            subject = Subject(name, cell, cell.init(jax.random.key(0), options.input))
            static_builds: dict[str, dict[int, float]] = {direction: {} for direction in DIRECTIONS}
            for length in options.lengths:
                for direction in DIRECTIONS:
                    yield from measure(options, subject, length, direction, static_builds[direction])


def measure(
    options: argparse.Namespace, subject: Subject, length: int, direction: str, static_builds: dict[int, float]
) -> list[Row]:
    """Returns the rows of one cell, T and direction, a method each.

    `static_builds` is how long static took to build for smaller T; this T is added to it.
    """
    predicted = predict(options, subject, length, direction, static_builds)
    skip = predicted > options.compile_limit
    arguments = (subject.params, inputs(options, length))
    builds = {
        name: timing.build(program(subject.cell, method, direction), *arguments)
        for name, method in (LOOPS if skip else METHODS).items()
    }
    if not skip:
        static_builds[length] = builds["static"].seconds
    times = timing.interleave(
        {name: functools.partial(built.run, *arguments) for name, built in builds.items()},
        repeats=options.repeats,
        seconds=options.seconds,
    )
    static = Row(subject.name, length, "static", direction, predicted_seconds=predicted)
    if skip:
        static = static._replace(reason=f"skipped: compile would take ~{math.ceil(predicted)} s")
    rows = [static, *(Row(subject.name, length, name, direction) for name in LOOPS)]
    return [measured(row, builds[row.method], times) if row.method in builds else row for row in rows]


def program(cell: Cell, method: Method, direction: str) -> Callable[[Any, Array], Any]:
    """Returns the function of ``(params, xs)`` that is measured."""
    forward = functools.partial(unroll, cell, method=method)
    if direction == "forward":
        return forward
    return jax.value_and_grad(mean_square(lambda params, xs: forward(params, xs)[0]))


def inputs(options: argparse.Namespace, length: int) -> Float[Array, "B T I"]:
    """Returns inputs of the size asked for."""
    shape = (options.batch, length, options.input)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def predict(
    options: argparse.Namespace, subject: Subject, length: int, direction: str, static_builds: dict[int, float]
) -> float:
    """Returns the seconds that static will take to build; where no smaller T was built, two are for this."""
    if not static_builds:
        function = program(subject.cell, METHODS["static"], direction)
        for part in (32, 8):
            probe = max(1, length // part)
            static_builds[probe] = timing.build(function, subject.params, inputs(options, probe)).seconds
    return extrapolate(static_builds, length)


def extrapolate(seconds: Mapping[int, float], length: int) -> float:
    """Returns the time expected at `length` from those of smaller ones: a power of T, the first to the third.

    The power is taken from the two largest lengths of which one is at least three times the other; else it is one.
    """
    largest = max(seconds)
    smaller = [other for other in seconds if 3 * other <= largest]
    power = 1.0
    if smaller:
        other = max(smaller)
        power = math.log(seconds[largest] / seconds[other]) / math.log(largest / other)
    return seconds[largest] * (length / largest) ** min(max(power, 1.0), 3.0)


def measured(row: Row, built: timing.Build, times: Mapping[str, Sequence[float]]) -> Row:
    """Returns a row with what was measured of its method."""
    run = timing.spread(times[row.method])
    memory = {} if built.memory is None else built.memory._asdict() | {"peak_bytes": sum(built.memory)}
    return row._replace(
        trace_seconds=built.trace_seconds,
        lower_seconds=built.lower_seconds,
        compile_seconds=built.compile_seconds,
        run_seconds=run.median,
        run_seconds_low=run.low,
        run_seconds_high=run.high,
        runs=len(times[row.method]),
        run_seconds_per_step=run.median / row.T,
        ratio_to_scan=run.median / timing.spread(times["scan"]).median,
        device_peak_bytes=timing.device_peak_bytes(),
        **memory,
    )


if __name__ == "__main__":
    command.run(main)
