"""What was found: a row for each contender in a case, and the short table that they come to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import report, timing
from benchmarks.kernels.cases import Case
from benchmarks.report import Column

BASE = Case("LSTM", heads=1, H=768, B=16, T=1024)


class Times(NamedTuple):
    """Seconds without and with the gradients."""

    forward: float
    both: float


class Row(NamedTuple):
    """What was measured of a contender in a case, in seconds a call; `reason` says why nothing was.

    `floor` is what no contender can take less than, as `floor.py` knows it.
    """

    sweep: str
    case: Case
    contender: str
    forward: timing.Spread | None = None
    both: timing.Spread | None = None
    error: float | None = None
    build_seconds: float | None = None
    reason: str | None = None
    floor: Times | None = None

    @property
    def of_floor(self) -> float | None:
        """What part of its time is the least that is possible."""
        return None if self.floor is None or self.both is None else self.floor.both / self.both.median

    def as_json(self) -> dict[str, Any]:
        """Returns the row with its units."""
        seconds = ("forward", "both", "floor")
        named = {f"{name}_seconds" if name in seconds else name: value for name, value in self._asdict().items()}
        return {**self.case._asdict(), **{name: value for name, value in named.items() if name != "case"}}


class Bar(NamedTuple):
    """A published time at `BASE`, in seconds, forward and with the gradients."""

    name: str
    projected: bool
    forward: float
    both: float

    def ratios(self, row: Row) -> str:
        """Returns a row's times over these; nothing where one projects the inputs and the other does not."""
        if row.forward is None or row.both is None or row.case.projected != self.projected:
            return ""
        return f"{row.forward.median / self.forward:.2f}, {row.both.median / self.both:.2f}"


# FlashRNN's published plots (Pöppel, Beck and Hochreiter, 2024): LSTM on an H100 SXM, bfloat16 but for cuDNN's float16.
BARS = (
    Bar("FlashRNN fused", False, 4.87e-3, 13.61e-3),
    Bar("FlashRNN alternating", False, 10.79e-3, 26.49e-3),
    Bar("cuDNN fp16 in PyTorch", True, 2.01e-3, 5.19e-3),
)


def summary(rows: Sequence[Row]) -> list[str]:
    """Returns the short table that comes last."""
    timed = [row for row in rows if row.both is not None]
    if not timed:
        return ["nothing was timed"]
    parts = (against_bars(timed), by_heads(timed), over_torch(timed), own_cell(timed), best_loops(timed))
    return [*itertools.chain(*parts), *left_out(rows)]


def against_bars(rows: Sequence[Row]) -> list[str]:
    """Returns the contenders at the published shape, and their times over the published ones: below 1 is faster."""
    columns = (
        Column("type", "case.dtype", width=8, left=True),
        Column("from", "case.start", width=4, left=True),
        Column("contender", width=15, left=True),
        Column("forward", "forward.median", "s", 8),
        Column("both", "both.median", "s", 8),
        *(Column(f"/ {bar.name}", bar.ratios, width=12) for bar in BARS),
    )
    found = [row for row in rows if row.sweep in ("main", "base") and _at_base(row.case)]
    if not found:
        return []
    what = f"LSTM, 1 x {BASE.H}, B {BASE.B}, T {BASE.T}; over FlashRNN's published plots on an H100: forward, both"
    return [what, *report.table_lines(columns, found), ""]


def _at_base(case: Case) -> bool:
    return case._replace(dtype=BASE.dtype, projected=False) == BASE


def by_heads(rows: Sequence[Row]) -> list[str]:
    """Returns the times of the head sweep, a line for each contender; one head's are in the table above."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.sweep == "heads" and row.forward is not None and row.both is not None:
            times = f"{report.si(row.forward.median, 's')}, {report.si(row.both.median, 's')}"
            found.setdefault(row.contender, []).append(f"{row.case.heads} x {row.case.H}: {times}")
    return [f"heads, forward, both, {name}: {'; '.join(times)}" for name, times in found.items()]


def over_torch(rows: Sequence[Row]) -> list[str]:
    """Returns our kernel's times over those of cuDNN in float16, the projection in both, a line for each case."""
    times = {(row.contender, row.case): (row.forward, row.both) for row in rows}
    lines = []
    for (name, case), (forward, both) in times.items():
        other = times.get(("torch fp16", case))
        if name == "pallas" and other is not None:
            ratios = [a.median / b.median for a, b in zip((forward, both), other) if a is not None and b is not None]
            shape = f"{case.cell}, H {case.H}, B {case.B}, T {case.T}"
            lines.append(f"pallas {case.dtype} over cuDNN float16, {shape}: {', '.join(f'{r:.2f}' for r in ratios)}")
    return lines


def own_cell(rows: Sequence[Row]) -> list[str]:
    """Returns the user's own cell over the LSTM, a line for each contender, and one for each size."""
    both = {(row.contender, row.case): row.both.median for row in rows if row.both is not None}
    parts = {}
    for (name, case), seconds in both.items():
        lstm = both.get((name, case._replace(cell="LSTM")))
        if case.cell == "own" and lstm is not None:
            parts.setdefault(name, {})[case.H] = f"{seconds / lstm:.2f} at H {case.H}"
    return [
        f"own cell over LSTM, both, {name}: {', '.join(dict(sorted(of.items())).values())}"
        for name, of in parts.items()
    ]


def best_loops(rows: Sequence[Row]) -> list[str]:
    """Returns the fastest of the plain loops in each case of their sweep, and the plainest beside it."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows if row.sweep == "loops"):
        times = {
            row.contender: row.both.median for row in rows if row.case == case and row.sweep == "loops" and row.both
        }
        best = min(times, key=times.__getitem__)
        beside = f", scan {report.si(times['scan'], 's')}" if "scan" in times else ""
        shape = f"H {case.H}, B {case.B}, T {case.T}, {case.dtype}"
        lines.append(f"plain loops, {shape}, both: fastest is {best}, {report.si(times[best], 's')}{beside}")
    return lines


def left_out(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each reason why a contender was not timed, with the number of its cases."""
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.reason is not None:
            reasons[row.contender, row.reason] = reasons.get((row.contender, row.reason), 0) + 1
    return [f"{name}, not timed in {count}: {reason}" for (name, reason), count in reasons.items()]
