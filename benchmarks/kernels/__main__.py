"""Recurrences as kernels on a GPU: ``python -m benchmarks.kernels``.

How fast is each way to run a recurrence, ours and others', and is what it computes right? Every contender is checked
against float64 before it is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from benchmarks import command, report, timing
from benchmarks.kernels.cases import Case, Numbers, numbers
from benchmarks.kernels.contenders import CONTENDERS
from benchmarks.kernels.floor import Floor, floor_of, measured_floor
from benchmarks.kernels.ready import Ready, noise
from benchmarks.kernels.reference import TOLERANCE, Result, compute, worst
from benchmarks.kernels.rows import Row, summary
from benchmarks.kernels.sweeps import accelerator_sweeps, small, sweeps
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
that come from them, the reference being NumPy in float64; a contender beyond 0.03 (bfloat16; PyTorch's float16 too) or
0.005 (float32, TF32 being allowed) is not timed. Contenders of a case run in turns, a turn being calls for 20 ms (8 at
most) that are waited for at its end, each with other inputs; times are medians over the turns, of one call, without
compiling. "of floor" is what part of the time of "both" is the least that is possible: that of the products, at the
rate of large ones here, or that of a wait for other blocks every step, as our kernel waits, whichever is longer.

"fused", "pallas" and "cudnn" are Fused, Pallas and CuDNN of this library; "jax.rnn" is jax.experimental.rnn. The plain
loops are compiled with XLA's flags too: "while" has --xla_gpu_enable_command_buffer=+WHILE, "double" has
--xla_gpu_enable_while_loop_double_buffering=true, "graph" is "while" with --xla_gpu_command_buffer_unroll_loops=true.
XLA_FLAGS in the environment holds for all contenders, and is printed.

Sweeps run in the order of --sweeps' names, each until its part of --seconds is over, most important cases first.
"""

_COLUMNS = (
    Column("sweep", width=6, left=True),
    Column("cell", "case.cell", width=13, left=True),
    Column("heads x H", lambda row: f"{row.case.heads} x {row.case.H}"),
    Column("B", "case.B", width=3),
    Column("T", "case.T", width=4),
    Column("type", "case.dtype", width=8, left=True),
    Column("from", "case.start", width=4, left=True),
    Column("contender", width=15, left=True),
    Column("forward", "forward.median", "s", 8),
    Column("both", "both.median", "s", 8),
    Column("of floor", "of_floor", ".0%"),
    Column("error", unit=".1e", width=7),
    Column("build", "build_seconds", "s", 7),
)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: without a GPU, unless small sizes are asked for.
    """
    options = parse(arguments)
    here = jax.default_backend()
    require(here == "gpu" or options.smoke, f"JAX runs on {here}; add --smoke for sizes that fit")
    floor, rows = floor_here(options), []
    rates = {"floor": {dtype: each._asdict() for dtype, each in floor.items()}}
    on = {**report.machine(), **other_versions(), **rates}
    with Patience(options.patience, lambda: leave(rows)) as patience:
        made = kept(measure_all(options, floor, patience), rows)
        report.show(options, _COLUMNS, made, on=on, about=others_line(on), last=summary_text)


def kept(made: Iterator[Row | str], rows: list[Row]) -> Iterator[Row | str]:
    """Yields what is made, and adds the rows of it to a list."""
    for each in made:
        if isinstance(each, Row):
            rows.append(each)
        yield each


def summary_text(rows: Sequence[Row]) -> str:
    """Returns the short table that comes last."""
    return "\n".join(["", *summary(rows)])


def floor_here(options: argparse.Namespace) -> Floor:
    """Returns the rates of this device; none where they are not wanted, and no wait where our kernel fails."""
    if options.no_floor:
        return {}
    with Patience(options.patience, lambda: leave([])) as patience:
        patience.begin("the floor, which --no-floor leaves out")
        return measured_floor(tuple(TOLERANCE), tiny=options.smoke)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    what = "Recurrences as kernels on a GPU, checked and timed."
    parser = command.FiguresParser("kernels", what, _EPILOG, seconds=1.0, row_seconds=0.01)
    add, names, more = parser.add_argument, list(sweeps()), list(accelerator_sweeps())
    help_ = f"of {', '.join(names)}, which are the default, and {', '.join(more)}"
    add("--sweeps", nargs="+", choices=[*names, *more], default=names, metavar="SWEEP", help=help_)
    add("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help=f"of {', '.join(CONTENDERS)}; all")
    parser.add_seconds(420.0, "of the whole run, about")
    add("--row-seconds", type=command.positive, default=0.25, help="of timing a contender in one direction; 0.25")
    help_ = "end with what is known where a contender takes longer, as a kernel that hangs does; 120"
    add("--patience", type=command.positive, default=120.0, metavar="SECONDS", help=help_)
    add("--no-floor", action="store_true", help="do not measure what no contender can take less than")
    return parser.options(arguments)


def measure_all(
    options: argparse.Namespace, floor: Floor, patience: Patience, clock: timing.Clock = time.perf_counter
) -> Iterator[Row | str]:
    """Yields the rows of every sweep asked for, and a sentence where one ends before its jobs are done.

    Args:
      options: the command's.
      floor: the rates of this device.
      patience: with what takes too long.
      clock: returns the time in seconds.
    """
    known = sweeps() | accelerator_sweeps()
    chosen = {name: known[name] for name in known if name in options.sweeps}
    whole, begin, part = sum(sweep.share for sweep in chosen.values()), clock(), 0.0
    for name, sweep in chosen.items():
        part += sweep.share / whole
        jobs = tuple(dict.fromkeys(map(small, sweep.jobs))) if options.smoke else sweep.jobs
        for done, job in enumerate(jobs):
            if clock() - begin >= part * options.seconds:
                yield f"{name}: stopped after {done} of {len(jobs)} cases, its part of {options.seconds:g} s is over"
                break
            contenders = [each for each in job.contenders if each in (options.contenders or CONTENDERS)]
            if not contenders:
                continue
            rows = measure(name, job.case, contenders, options.row_seconds, patience)
            yield from (row._replace(floor=floor_of(row.case, floor)) for row in rows)


def measure(sweep: str, case: Case, contenders: Sequence[str], row_seconds: float, patience: Patience) -> list[Row]:
    """Returns the rows of a case: those that are right timed in turns, the others with the reason why not."""
    patience.begin(f"{sweep}, {case}: compiling")
    given = numbers(case)
    expected, ready = all_ready(case, given, contenders)
    rows, turns = {}, {}
    for name, made in ready.items():
        patience.begin(f"{sweep}, {case}: {name}")
        rows[name] = Row(sweep, case, name)
        try:
            able = made.result()
            error, part = error_of(able, given, expected)
            rows[name] = rows[name]._replace(error=error, build_seconds=able.build_seconds)
            if not error <= TOLERANCE[case.dtype]:
                rows[name] = rows[name]._replace(reason=f"wrong: {part} is off by {error:.1%}")
                continue
            samples = [able.sample(2 * seed, None) for seed in range(_SETS)]
            turns |= {(name, run): Turn(able, run, samples) for run in ("forward", "both")}
        except Exception as error:  # whatever a contender fails with, the others go on
            rows[name] = rows[name]._replace(reason=report.in_short(error))
    patience.begin(f"{sweep}, {case}: turns")
    try:
        times = timing.interleave(turns, repeats=1000, seconds=row_seconds * len(turns))
    except Exception as error:  # such as too little memory for all of them at once
        return [row if row.reason else row._replace(reason=report.in_short(error)) for row in rows.values()]
    finally:
        patience.end()
        noise.cache_clear()
    spreads: dict[str, dict[str, timing.Spread]] = {name: {} for name in rows}
    for (name, run), taken in times.items():
        spreads[name][run] = timing.spread([seconds / turns[name, run].count for seconds in taken])
    return [row._replace(**spreads[name]) for name, row in rows.items()]


def all_ready(case: Case, given: Numbers, contenders: Sequence[str]) -> tuple[Result, dict[str, Future[Ready]]]:
    """Returns what is right, and the contenders made ready, several at a time, each with its error if it had one."""
    with ThreadPoolExecutor(min(_COMPILING, report.available_cores())) as pool:
        ready = {name: pool.submit(CONTENDERS[name], case, given) for name in contenders}
        return compute(case, given), ready


def error_of(able: Ready, given: Numbers, expected: Result) -> tuple[float, str]:
    """Returns the largest relative error of what a contender computes, and in what it is."""
    sample = able.sample(0, given)
    got = able.read(able.both(sample))
    return worst(got, expected, without=able.read_outputs(able.forward(sample)))


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


class Patience:
    """Ends the run where a part of it takes too long: a wait for a device cannot be interrupted otherwise."""

    def __init__(self, seconds: float, leave: Callable[[], None]):
        self._seconds, self._leave, self._what = seconds, leave, ""
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Patience:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, what: str) -> None:
        """Starts to wait for something, in the place of what was waited for before."""
        self.end()
        self._what = what
        self._timer = threading.Timer(self._seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Says that it is done."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        print(f"{self._what}: not done after {self._seconds:g} s; leave a contender out by --contenders", flush=True)
        self._leave()


def leave(rows: Sequence[Row]) -> None:
    """Prints what is known and ends the process at once."""
    print(summary_text(rows), flush=True)
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
