"""Sessions a second: ``python -m benchmarks.sessions [--slots 1 64 4096] [--json PATH]``.

How many sessions take a step in a second by `rnnjax.Sessions`, with inputs and outputs as arrays or by name, where all
of them do and where one of them does, beside a Python loop of one compiled step a session? Outputs end on the host.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import rnnjax
from benchmarks import report, timing
from rnnjax.commands import exit_code

_COLUMNS = tuple(
    report.Column(title, width, left)
    for title, width, left in [
        ("slots", 5, False),
        ("step", 5, False),
        ("way", 14, True),
        ("a step", 8, False),
        ("sessions/s", 10, False),
        ("of the loop's", 13, False),
        ("runs", 4, False),
    ]
)
_LOOP = "loop"


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name."""
    options = parse(arguments)
    cell = getattr(rnnjax, options.cell)(options.hidden)
    params = cell.init(jax.random.key(0), options.input)
    machine = report.machine()
    print(f"{report.header(machine)}\n{cell!r}, {options.input} inputs\n\n{report.title_line(_COLUMNS)}")
    rows = []
    for slots in options.slots:
        for stepping in sorted({1, slots}):
            rows += rows_of(cell, params, options, slots, stepping)
    if options.json:
        report.write_json(options.json, machine=machine, rows=rows)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = report.Parser(prog="python -m benchmarks.sessions", description="Times sessions that step together.")
    parser.add_argument("--cell", default="LSTM", choices=["BasicRNN", "LSTM", "GRU", "LRU"])
    parser.add_argument("--input", type=report.at_least_one, default=64)
    parser.add_argument("--hidden", type=report.at_least_one, default=128)
    parser.add_argument("--slots", type=report.at_least_one, nargs="+", default=[1, 64, 4096])
    parser.add_argument("--repeats", type=report.at_least_one, default=100)
    parser.add_argument("--seconds", type=report.positive, default=5, help="after which no round of a row is begun")
    parser.add_argument("--json", type=report.output_path, metavar="PATH")
    return parser.parse_args(arguments)


def rows_of(cell: Any, params: Any, options: argparse.Namespace, slots: int, stepping: int) -> list[dict[str, Any]]:
    """Returns the rows of some of a number of slots, and prints them."""
    calls = contenders(cell, params, np.ones((stepping, options.input), np.float32), slots)
    times = timing.interleave(calls, repeats=options.repeats, seconds=options.seconds)
    medians = {way: timing.spread(each).median for way, each in times.items()}
    rows = [
        {"slots": slots, "stepping": stepping, "way": way, "seconds": seconds, "runs": len(times[way])}
        for way, seconds in medians.items()
    ]
    for row in rows:
        rate, ratio = stepping / row["seconds"], medians[_LOOP] / row["seconds"]
        shown = report.si(row["seconds"], "s"), f"{rate:,.0f}", f"{ratio:.2f}"
        print(report.line(_COLUMNS, (slots, stepping, row["way"], *shown, row["runs"])), flush=True)
    return rows


def contenders(cell: Any, params: Any, xs: np.ndarray, slots: int) -> dict[str, Callable[[], Any]]:
    """Returns the ways to take a step of the first sessions of all slots; each call takes one.

    Args:
      cell, params: what is stepped.
      xs: the inputs of the sessions that take a step.
      slots: number of open sessions.
    """
    by_name, by_row = (rnnjax.Sessions(cell, params, slots) for _ in range(2))
    for _ in range(slots):
        by_name.open()
        by_row.open()
    names = list(range(len(xs)))
    step = jax.jit(cell.whole_step)
    states = [cell.start(params, 1, xs.dtype) for _ in names]

    def loop() -> None:
        for row in names:
            states[row], y = step(params, states[row], xs[row : row + 1])
            np.asarray(y)

    return {
        _LOOP: loop,
        "step": lambda: by_name.step({name: xs[name] for name in names}),
        "step_batch": lambda: np.asarray(by_row.step_batch(names, xs)),
    }


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
