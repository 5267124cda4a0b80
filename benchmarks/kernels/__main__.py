"""Recurrences as kernels on a GPU: ``python -m benchmarks.kernels``.

How fast is each way to run a recurrence, ours and others', and is what it computes right? Every contender is checked
against float64 before it is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from benchmarks import command, report, timing
from benchmarks.kernels.cases import Case, Numbers, numbers
from benchmarks.kernels.contenders import CONTENDERS
from benchmarks.kernels.floor import Rates, floor_of, measured_rates
from benchmarks.kernels.ready import Ready, noise
from benchmarks.kernels.reference import TOLERANCE, Result, compute, worst
from benchmarks.kernels.sweeps import PUBLISHED, Times, contenders, small, sweeps
from benchmarks.report import Column
from rnnjax.errors import require

_SETS = 3  # of inputs, which turns take in turn: together they are larger than a GPU's cache
_TURN_SECONDS, _MOST_CALLS = 0.02, 8
_COMPILING = 8  # contenders that are made ready at a time

_EPILOG = """\
A case is a cell, heads x units, batch and steps, a type, and where it starts: "z", precomputed inputs (the heads'
recurrences side by side, by jax.vmap), or "x", with the input projection from as many features as there are units.
"forward" makes all outputs; "both" makes them and the gradients of inputs and parameters from a given gradient of the
outputs. "error" is the largest ||got - reference|| / ||reference|| of the first 8 steps' outputs and of all gradients
that come from them, the reference being plain equations in float64; a contender beyond 0.03 (bfloat16; PyTorch's
float16 too) or 0.005 (float32, TF32 being allowed) is not timed. Contenders of a case run in turns, a turn being calls
for 20 ms (8 at most) that are waited for at its end, each with other inputs; times are medians over the turns, of one
call, without compiling.

"of floor" is what part of the time of "both" is the least that is possible: that of the products, at the rate of large
ones here, or that of a wait for other blocks every step, as our kernel waits, whichever is longer. "torch / it" and
"published / it" are times of "both" over a contender's: those of the faster of PyTorch's types in the same case, and
FlashRNN's published ones on an H100, at their shape.

"fused", "pallas" and "cudnn" are Fused, Pallas and CuDNN of this library. XLA_FLAGS in the environment is printed.
"""

_COLUMNS = (
    Column("sweep", width=7, left=True),
    Column("cell", "case.cell", width=13, left=True),
    Column("heads x H", lambda row: f"{row.case.heads} x {row.case.H}"),
    Column("B", "case.B", width=3),
    Column("T", "case.T", width=4),
    Column("type", "case.dtype", width=8, left=True),
    Column("from", "case.start", width=4, left=True),
    Column("contender", width=10, left=True),
    Column("forward", "forward_seconds.median", "s", 8),
    Column("both", "both_seconds.median", "s", 8),
    Column("of floor", lambda row: row.part_of("floor_seconds"), ".0%"),
    Column("torch / it", lambda row: row.part_of("torch_seconds"), ".2f"),
    Column("published / it", lambda row: row.part_of("published_seconds"), ".2f"),
    Column("error", unit=".1e", width=7),
    Column("build", "build_seconds", "s", 7),
)


class Row(NamedTuple):
    """What was measured of a contender in a case, in seconds a call; `reason` says why nothing was.

    Beside it stands what no contender can take less than, as `floor.py` knows it; what PyTorch took in the same case;
    and what was published.
    """

    sweep: str
    case: Case
    contender: str
    forward_seconds: timing.Spread | None = None
    both_seconds: timing.Spread | None = None
    error: float | None = None
    build_seconds: float | None = None
    reason: str | None = None
    floor_seconds: Times | None = None
    torch_seconds: Times | None = None
    published_seconds: Times | None = None

    def part_of(self, other: str) -> float | None:
        """Returns another time with the gradients over its own, where both are known."""
        times = getattr(self, other)
        return None if times is None or self.both_seconds is None else times.both / self.both_seconds.median


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and writes; raises `ConfigError` without a GPU, unless small sizes are asked for."""
    options = parse(arguments)
    here = jax.default_backend()
    require(here == "gpu" or options.smoke, f"JAX runs on {here}; add --smoke for sizes that fit")
    with patience(options.patience, "the floor"):
        rates = {dtype: measured_rates(dtype, tiny=options.smoke) for dtype in TOLERANCE}
    on = {**report.machine(), **other_versions(), "floor": rates}
    report.show(options, _COLUMNS, measure_all(options, rates), on=on, about=others_line(on))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "Recurrences as kernels on a GPU, checked and timed."
    parser = command.FiguresParser("kernels", what, _EPILOG, seconds=1.0, row_seconds=0.01)
    add, names = parser.add_argument, list(sweeps())
    add("--sweeps", nargs="+", choices=names, default=names, metavar="SWEEP", help=f"of {', '.join(names)}; all")
    add("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help=f"of {', '.join(CONTENDERS)}; all")
    parser.add_seconds(420.0, "of the whole run, about, which sweeps share evenly")
    add("--row-seconds", type=command.positive, default=0.25, help="of timing a contender in one direction; 0.25")
    help_ = "end where a contender takes longer, as a kernel that hangs does; 120"
    add("--patience", type=command.positive, default=120.0, metavar="SECONDS", help=help_)
    return parser.options(arguments)


def measure_all(
    options: argparse.Namespace, rates: Mapping[str, Rates], clock: timing.Clock = time.perf_counter
) -> Iterator[Row | str]:
    """Yields the rows of every sweep asked for, and a sentence where one ends before its cases are done."""
    begin = clock()
    for number, name in enumerate(options.sweeps, 1):
        end = begin + options.seconds * number / len(options.sweeps)
        cases = sweeps()[name]
        cases = list(dict.fromkeys(map(small, cases))) if options.smoke else cases
        for done, case in enumerate(cases):
            if clock() >= end:
                yield f"{name}: stopped after {done} of {len(cases)} cases, its part of {options.seconds:g} s is over"
                break
            names = [each for each in contenders(case) if each in (options.contenders or CONTENDERS)]
            rows = measure(name, case, names, options)
            beside = {"floor_seconds": floor_of(case, rates), "published_seconds": PUBLISHED.get(case)}
            yield from (row._replace(**beside, torch_seconds=fastest_torch(rows)) for row in rows)


def fastest_torch(rows: Sequence[Row]) -> Times | None:
    """Returns the faster of the times that PyTorch took with its types, None where it took no part."""
    found = [
        Times(row.forward_seconds.median, row.both_seconds.median)
        for row in rows
        if row.contender.startswith("torch") and row.forward_seconds and row.both_seconds
    ]
    return min(found, key=lambda times: times.both, default=None)


def measure(sweep: str, case: Case, names: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """Returns the rows of a case: those that are right timed in turns, the others with the reason why not."""
    what, given = f"{sweep}, {case}", numbers(case)
    with patience(options.patience, f"{what}: compiling"):
        expected, ready = all_ready(case, given, names)
    rows = {name: Row(sweep, case, name) for name in names}
    turns: dict[tuple[str, str], Turn] = {}
    for name, made in ready.items():
        try:
            with patience(options.patience, f"{what}: {name}"):
                rows[name] = checked(rows[name], made.result(), given, expected)
                if rows[name].reason is None:
                    turns |= turns_of(name, made.result())
        except Exception as error:  # whatever a contender fails with, the others go on
            rows[name] = rows[name]._replace(reason=report.in_short(error))
    try:
        with patience(options.patience, f"{what}: turns"):
            times = timing.interleave(turns, repeats=1000, seconds=options.row_seconds * len(turns))
    except Exception as error:  # such as too little memory for all of them at once
        return [row if row.reason else row._replace(reason=report.in_short(error)) for row in rows.values()]
    finally:
        noise.cache_clear()
    for (name, run), taken in times.items():
        spread = timing.spread([seconds / turns[name, run].count for seconds in taken])
        rows[name] = rows[name]._replace(**{f"{run}_seconds": spread})
    return list(rows.values())


def checked(row: Row, able: Ready, given: Numbers, expected: Result) -> Row:
    """Returns a row with the largest relative error of what a contender computes, and with what is wrong."""
    sample = able.sample(0, given)
    without, both = able.read_outputs(able.forward(sample)), able.read(able.both(sample))
    error, part = worst({"forward": without, "both": both}, {"forward": expected.outputs, "both": expected})
    right = error <= TOLERANCE[row.case.dtype]
    reason = None if right else f"wrong: {part} is off by {error:.1%}"
    return row._replace(error=error, build_seconds=able.build_seconds, reason=reason)


def turns_of(name: str, able: Ready) -> dict[tuple[str, str], Turn]:
    """Returns a contender's turns, forward and with the gradients."""
    samples = [able.sample(2 * seed, None) for seed in range(_SETS)]
    return {(name, run): Turn(able, run, samples) for run in ("forward", "both")}


def all_ready(case: Case, given: Numbers, names: Sequence[str]) -> tuple[Result, dict[str, Future[Ready]]]:
    """Returns what is right, and the contenders made ready, several at a time, each with its error if it had one."""
    with ThreadPoolExecutor(min(_COMPILING, report.available_cores())) as pool:
        ready = {name: pool.submit(CONTENDERS[name], case, given) for name in names}
        return compute(case, given), ready


class Turn:
    """A turn of a contender: calls with one sample after another, waited for at the end."""

    def __init__(self, ready: Ready, run: str, samples: Sequence[Any]):
        self._call, self._wait = getattr(ready, run), ready.wait
        self._samples = itertools.cycle(samples)
        self.count = 1
        self()  # what comes with the first call is not counted
        seconds = timing.duration(self)
        self.count = min(max(1, math.ceil(_TURN_SECONDS / max(seconds, 1e-6))), _MOST_CALLS)

    def __call__(self) -> None:
        made = [self._call(next(self._samples)) for _ in range(self.count)]
        self._wait(made)


@contextlib.contextmanager
def patience(seconds: float, what: str) -> Iterator[None]:
    """Ends the process where something takes too long: a wait for a device cannot be interrupted otherwise."""
    timer = threading.Timer(seconds, _give_up, [f"{what}: not done after {seconds:g} s"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(sentence: str) -> None:
    print(f"{sentence}; leave a contender out by --contenders", flush=True)
    os._exit(1)


def other_versions() -> dict[str, Any]:
    """Returns what else the figures depend on: XLA's flags, and PyTorch and cuDNN."""
    found: dict[str, Any] = {"xla_flags": os.environ.get("XLA_FLAGS", "")}
    if importlib.util.find_spec("torch") is not None:
        import torch  # pyright: ignore[reportMissingImports]

        found |= {"torch": torch.__version__, "cudnn_of_torch": torch.backends.cudnn.version()}
    return found


def others_line(machine: Mapping[str, Any]) -> str:
    """Returns `other_versions` in one line."""
    torch = f"torch {machine['torch']} (cuDNN {machine['cudnn_of_torch']})" if "torch" in machine else "no torch"
    return f"{torch}, XLA_FLAGS={machine['xla_flags']!r}"


if __name__ == "__main__":
    command.run(main, shares_device=True)
