"""What was found: a row for each measurement, and where static is faster, in words and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.subjects import LOOPS
from rnnjax import Method, Scan, Static

METHODS: dict[str, Method] = {"static": Static(), **LOOPS}
DIRECTIONS = ("forward", "forward+backward")
AMORTISED_CALLS = 1000


class Row(NamedTuple):
    """What was measured of one (cell, T, method, direction), times in seconds; `--help` says more."""

    cell: str
    T: int
    method: str
    direction: str
    trace_seconds: float | None = None
    lower_seconds: float | None = None
    compile_seconds: float | None = None
    run_seconds: float | None = None
    run_seconds_low: float | None = None
    run_seconds_high: float | None = None
    runs: int | None = None
    run_seconds_per_step: float | None = None
    ratio_to_scan: float | None = None
    argument_bytes: int | None = None
    output_bytes: int | None = None
    temp_bytes: int | None = None
    peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    reason: str | None = None
    predicted_seconds: float | None = None

    def cost(self, calls: float = math.inf) -> float:
        """Returns the seconds a call, the build spread over so many; infinite if skipped."""
        if self.run_seconds is None:
            return math.inf
        build = (self.trace_seconds or 0) + (self.lower_seconds or 0) + (self.compile_seconds or 0)
        return self.run_seconds + build / calls


class Crossover(NamedTuple):
    """The lengths at which static is faster than the best scan, of those it was compiled for (`measured`)."""

    cell: str
    direction: str
    measured: tuple[int, ...]
    run: tuple[int, ...]
    amortised: tuple[int, ...]


def crossovers(rows: Sequence[Row]) -> list[Crossover]:
    """Returns, for each cell and direction, where static is faster than the best scan."""
    groups = dict.fromkeys((row.cell, row.direction) for row in rows)
    return [crossover([row for row in rows if (row.cell, row.direction) == group]) for group in groups]


def crossover(rows: Sequence[Row]) -> Crossover:
    """Returns where static is faster than the best scan, from the rows of one cell and direction.

    A scan that takes T steps or more at a time has no loop left: it is static by another name, and not counted.
    """
    by_length = {length: {row.method: row for row in rows if length == row.T} for length in {row.T for row in rows}}
    # Of the last length, some may be missing yet.
    whole = {length: of for length, of in by_length.items() if {"static", "scan"} <= set(of)}
    measured = sorted(length for length, of in whole.items() if of["static"].reason is None)

    def faster(length: int, calls: float) -> bool:
        scans = [row for name, row in by_length[length].items() if is_loop(name, length)]
        return by_length[length]["static"].cost(calls) < min(row.cost(calls) for row in scans)

    run, amortised = (tuple(t for t in measured if faster(t, calls)) for calls in (math.inf, AMORTISED_CALLS))
    return Crossover(rows[0].cell, rows[0].direction, tuple(measured), run, amortised)


def is_loop(name: str, length: int) -> bool:
    """Whether a method is a scan that has a loop at this length; the plainest is always taken for one."""
    method = METHODS[name]
    return isinstance(method, Scan) and (method == Scan() or method.unroll < length)


def summary_text(found: Sequence[Crossover]) -> str:
    """Returns a line a cell: the T up to which static is faster."""
    lines = ["", f"static is faster than the best scan by run time (counting the build over {AMORTISED_CALLS} calls):"]
    for cell in dict.fromkeys(crossover.cell for crossover in found):
        lines.append(f"{cell}: {'; '.join(crossover_text(one) for one in found if one.cell == cell)}")
    return "\n".join(lines)


def crossover_text(found: Crossover) -> str:
    """Returns in words where static is faster in one direction, by run time and, in brackets, with the build."""
    if not found.measured:
        return f"{found.direction} not measured"
    run, amortised = (lengths_text(faster, found.measured) for faster in (found.run, found.amortised))
    return f"{found.direction} {run} ({amortised})"


def lengths_text(faster: Sequence[int], measured: Sequence[int]) -> str:
    """Returns in words which of the lengths measured are those where static is faster."""
    if not faster:
        return "never"
    if list(faster) != list(measured[: len(faster)]):
        return f"at T = {', '.join(map(str, faster))} only"
    return f"up to T = {faster[-1]}" + (", the longest compiled" if len(faster) == len(measured) else "")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws run time a step over T, forward and forward+backward, and time to compile; a row of pictures a cell."""
    cells = list(dict.fromkeys(row.cell for row in rows))
    figure, axes = report.figure(len(cells), 3)
    for cell, (forward, both, compiling) in zip(cells, axes):
        of_cell = [row for row in rows if row.cell == cell]
        for axis, direction in zip((forward, both), DIRECTIONS):
            _draw(axis, of_cell, direction, "run_seconds_per_step")
            axis.set(title=f"{cell}, {direction}", ylabel="run time per step, s")
        _draw(compiling, of_cell, DIRECTIONS[1], "compile_seconds")
        compiling.set(title=f"{cell}, {DIRECTIONS[1]}", ylabel="compile time, s")
    report.save_figure(figure, path)


def _draw(axis: Any, rows: Sequence[Row], direction: str, field: str) -> None:
    for method in METHODS:
        of_method = [row for row in rows if row.method == method and row.direction == direction and not row.reason]
        axis.plot([row.T for row in of_method], [getattr(row, field) for row in of_method], marker=".", label=method)
    lengths = sorted({row.T for row in rows})
    axis.set(xscale="log", yscale="log", xlabel="T")
    axis.set_xticks([], minor=True)
    axis.set_xticks(lengths, lengths)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
