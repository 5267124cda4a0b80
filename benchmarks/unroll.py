"""Static unrolling against scan: ``python -m benchmarks.unroll``.

How long does each take to compile and to run, from short sequences to long, and from which T on is a loop in the
program worth more than T copies of the step?
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks import command, report, timing
from benchmarks.report import Column
from benchmarks.subjects import LOOPS, mean_square
from rnnjax import GRU, LSTM, BasicRNN, Cell, Method, Static, unroll

CELLS: dict[str, Callable[[int], Cell]] = {
    "BasicRNN": BasicRNN,
    "LSTM": LSTM,
    "LSTM+peephole": functools.partial(LSTM, peephole=True),
    "GRU": GRU,
}
METHODS: dict[str, Method] = {"static": Static(), **LOOPS}
DIRECTIONS = ("forward", "forward+backward")
_EPILOG = """\
forward is unroll(cell, params, xs); forward+backward is the mean of the squared outputs with its gradient with respect
to the parameters. Methods of one cell, T and direction run in turns in one process, each call until its result is
ready; times are medians. Every build, which is to trace, lower and compile, starts with empty caches. Static is left
out where its build would take longer than --compile-limit if it grew in proportion to T, from the one before.
"""

_COLUMNS = (
    Column("cell", width=13, left=True),
    Column("T", width=5),
    Column("direction", width=16, left=True),
    Column("method", width=8, left=True),
    Column("trace", "build.trace_seconds", "s", 7),
    Column("lower", "build.lower_seconds", "s", 7),
    Column("compile", "build.compile_seconds", "s", 7),
    Column("run", "run_seconds.median", "s", 7),
    Column("a step", "step_seconds", "s", 7),
    Column("/ scan", "ratio_to_scan", ".2f"),
    Column("memory", "memory_bytes", "B", 7),
)


class Row(NamedTuple):
    """What was measured of a method: its build's and its run's seconds; or the reason why it was not."""

    cell: str
    T: int
    direction: str
    method: str
    build: timing.Build | None = None
    run_seconds: timing.Spread | None = None
    step_seconds: float | None = None
    ratio_to_scan: float | None = None
    memory_bytes: int | None = None
    reason: str | None = None


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    about = (
        f"batch {options.batch}, input {options.input}, hidden {options.hidden}, float32; times are medians; / scan: "
        "run time over that of scan\nmemory: arguments + outputs + temporaries, as the compiler plans them"
    )
    rows = report.show(options, _COLUMNS, measure_all(options), about=about)
    if options.plot is not None:
        plot(rows, options.plot)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
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
    parser.add_seconds(6.0, "of measuring a cell, T and direction, at least three turns")
    add("--compile-limit", type=command.not_negative, default=60.0, metavar="SECONDS", help="see below; 60")
    add("--plot", type=plot_path, metavar="PATH", help="draw the times here: .png, .svg or .pdf")
    return parser.options(arguments)


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of one cell, T and direction after another."""
    with timing.cold_compilation():
        for name in options.cells:
            static_builds: dict[str, dict[int, float]] = {direction: {} for direction in DIRECTIONS}
            for length, direction in itertools.product(sorted(options.lengths), DIRECTIONS):
                yield from measure(options, name, length, direction, static_builds[direction])


def measure(
    options: argparse.Namespace, name: str, length: int, direction: str, static_builds: dict[int, float]
) -> Iterator[Row]:
    """Yields the rows of one cell, T and direction, a method each.

    Args:
      options: the command's.
      name: of the cell.
      length: T.
      direction: "forward" or "forward+backward".
      static_builds: how long static took to build for smaller T; this T is added to it.
    """
    cell = CELLS[name](options.hidden)
    params, xs = cell.init(jax.random.key(0), options.input), inputs(options, length)
    predicted = predict(options, program(cell, Static(), direction), params, length, static_builds)
    tried = METHODS if predicted <= options.compile_limit else LOOPS
    builds = {each: timing.build(program(cell, method, direction), params, xs) for each, method in tried.items()}
    calls = {each: functools.partial(build.run, params, xs) for each, build in builds.items()}
    times = timing.interleave(calls, repeats=options.repeats, seconds=options.seconds)
    spreads = {each: timing.spread(seconds) for each, seconds in times.items()}
    for each in METHODS:
        row = Row(name, length, direction, each)
        if each in builds:
            yield measured(row, builds[each], spreads[each], spreads["scan"])
        else:
            yield row._replace(reason=f"skipped: to build it would take ~{math.ceil(predicted)} s")
    if "static" in builds:
        static_builds[length] = builds["static"].seconds


def predict(
    options: argparse.Namespace, static: Callable[..., Any], params: Any, length: int, builds: dict[int, float]
) -> float:
    """Returns the seconds that static will take to build; where no smaller T was built, one is for this."""
    if not builds:
        short = max(1, length // 8)
        builds[short] = timing.build(static, params, inputs(options, short)).seconds
    built = max(builds)
    return builds[built] * length / built


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


def measured(row: Row, build: timing.Build, run: timing.Spread, scan: timing.Spread) -> Row:
    """Returns a row with what was measured of its method."""
    return row._replace(
        build=build._replace(run=None),
        run_seconds=run,
        step_seconds=run.median / row.T,
        ratio_to_scan=run.median / scan.median,
        memory_bytes=None if build.memory is None else sum(build.memory),
    )


def plot_path(text: str) -> Path:
    """Returns the path of a picture that can be drawn and written, for `argparse`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError('plots need matplotlib; install it with: pip install "rnnjax[bench]"')
    path = command.output_path(text)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"cannot draw {text}: its name must end in .png, .svg or .pdf")
    return path


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws run time a step over T, forward and forward+backward, and time to compile; a row of pictures a cell."""
    from matplotlib.figure import Figure  # takes half a second

    cells = list(dict.fromkeys(row.cell for row in rows))
    figure = Figure((4.2 * 3, 3.2 * len(cells)), layout="constrained")
    axes = figure.subplots(len(cells), 3, squeeze=False)
    pictures = [
        (DIRECTIONS[0], "run time per step, s", lambda row: row.step_seconds),
        (DIRECTIONS[1], "run time per step, s", lambda row: row.step_seconds),
        (DIRECTIONS[1], "compile time, s", lambda row: row.build.compile_seconds),
    ]
    lengths = sorted({row.T for row in rows})
    for cell, of_cell in zip(cells, axes):
        for axis, (direction, label, of) in zip(of_cell, pictures):
            shown = [row for row in rows if (row.cell, row.direction, row.reason) == (cell, direction, None)]
            for method in METHODS:
                by_length = {row.T: of(row) for row in shown if row.method == method}
                axis.plot(list(by_length), list(by_length.values()), marker=".", label=method)
            axis.set(title=f"{cell}, {direction}", xlabel="T", ylabel=label, xscale="log", yscale="log")
            axis.set_xticks([], minor=True)
            axis.set_xticks(lengths, lengths)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command.run(main)
