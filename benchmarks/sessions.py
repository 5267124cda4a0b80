"""Sessions a second: ``python -m benchmarks.sessions [--slots 1 64 4096] [--json PATH]``.

How many sessions take a step in a second by `rnnjax.Sessions`, with inputs and outputs as arrays or by name, where all
of them do and where one of them does, beside a Python loop of one compiled step a session? Outputs end on the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import rnnjax
from benchmarks import command, report, timing
from benchmarks.report import Column

_COLUMNS = (
    Column("slots", width=5),
    Column("step", "stepping", width=5),
    Column("way", width=14, left=True),
    Column("a step", "seconds", "s", 8),
    Column("sessions/s", lambda row: row.stepping / row.seconds, ",.0f", 10),
    Column("of the loop's", "ratio", ".2f"),
    Column("runs", width=4),
)
_LOOP = "loop"


class Row(NamedTuple):
    """What was measured of a way in which some sessions of all slots take a step, and its speed over the loop's."""

    slots: int
    stepping: int
    way: str
    seconds: float
    ratio: float
    runs: int


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    cell = getattr(rnnjax, options.cell)(options.hidden)
    about = f"{cell!r}, {options.input} inputs"
    report.show(options, _COLUMNS, measure_all(cell, options), about=about)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    small = {"slots": [3], "hidden": 2, "input": 2, "repeats": 1}
    parser = command.FiguresParser("sessions", "Times sessions that step together.", **small)
    add, count = parser.add_argument, command.at_least_one
    add("--cell", default="LSTM", choices=["BasicRNN", "LSTM", "GRU", "LRU"])
    add("--input", type=count, default=64)
    add("--hidden", type=count, default=128)
    add("--slots", type=count, nargs="+", default=[1, 64, 4096])
    add("--repeats", type=count, default=100)
    parser.add_seconds(5.0, "after which no round of a row is begun")
    return parser.options(arguments)


def measure_all(cell: Any, options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of one and of all sessions of every number of slots."""
    params = cell.init(jax.random.key(0), options.input)
    for slots, stepping in [(n, k) for n in options.slots for k in sorted({1, n})]:
        calls = contenders(cell, params, np.ones((stepping, options.input), np.float32), slots)
        times = timing.interleave(calls, repeats=options.repeats, seconds=options.seconds)
        medians = {way: timing.spread(each).median for way, each in times.items()}
        for way, seconds in medians.items():
            yield Row(slots, stepping, way, seconds, medians[_LOOP] / seconds, len(times[way]))


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
    command.run(main)
