"""Faults put into real runs, and whether anything was lost or falsified: ``python -m benchmarks.faults --minutes N``.

Training is killed, stopped, started on damaged directories and full disks, and bereft of its other processes; sweeps
are killed and stopped, and damaged runs asked to generate. What comes out in the end is compared, bit for bit, with a
run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import collections
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import command, report
from benchmarks.faults.case import Bench, Case, Fault, require_same
from benchmarks.faults.kinds import KINDS, not_allowed
from benchmarks.report import Column
from rnnjax.errors import FAILED, TrainingError

_EPILOG = """\
kill        SIGKILL, up to four times in one run, half of them inside of a checkpoint's save
signal      SIGTERM or SIGINT at any moment, with programs compiled before or not
damage      a file of a complete or stopped run cut off, zeroed, changed, deleted, ...; or something left over there
disk        the run directory on a disk that is full, of bytes or of files; then room is made
processes   two processes of one run, one of them killed or stopped
sweep       SIGKILL, SIGTERM or SIGINT at any moment of a sweep of two programs, up to three times
generate    a file of a complete run damaged, or something left over there; then generation and evaluation

A case has survived if the result is that of a run that nothing disturbed (metrics, summary, arrays of the last and the
best checkpoint, TensorBoard's points, bit for bit), or, where what was damaged cannot be made again, if the command
ended with code 1 or 2, one sentence, no traceback and nothing deleted. The choices of a case come from the seed and its
number: --only KIND --case N --seed S plays it again.
"""

_COLUMNS = (
    Column("fault", width=10, left=True),
    Column("tried", width=6),
    Column("survived", width=8),
    Column("seconds", unit=".0f", width=8),
    Column("note", left=True),
)


class Played(NamedTuple):
    """A case that was played: what was seen if it was not survived, the commands, and seconds to answer signals."""

    kind: str
    number: int
    seconds: float
    answers: list[float]
    seen: str | None
    log: list[str]


class Row(NamedTuple):
    """The counts of a kind of fault, and what is said beside them."""

    fault: str
    tried: int
    survived: int
    seconds: float
    note: str


def main(arguments: Sequence[str]) -> None:
    """Plays, prints and writes.

    Raises:
      TrainingError: if the command to be tested does not even train undisturbed, or not twice to the same.
      SystemExit: with code 1 if a fault was not survived.
    """
    options = parse(arguments)
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax warns of items that are read by themselves
    failures: list[Played] = []
    with tempfile.TemporaryDirectory(prefix="rnnjax-faults-") as folder:
        rows = measure(Path(folder), options, failures)
        report.show(options, _COLUMNS, rows, about=f"seed {options.seed}", failures=failures)
    if failures:
        raise SystemExit(FAILED)


def measure(folder: Path, options: argparse.Namespace, failures: list[Played]) -> Iterator[Row | str]:
    """Yields what was seen of cases that were not survived, which it keeps, and after all the row of every kind."""
    barred = [kind for kind in options.only if not_allowed(kind)]
    played = []
    for each in campaign(prepare(folder), [kind for kind in options.only if kind not in barred], options):
        played.append(each)
        if each.seen is not None:
            failures.append(each)
            yield failure(each, options.seed)
    for kind in options.only:
        yield row(kind, [each for each in played if each.kind == kind], kind in barred)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "Faults put into real runs, and whether they survive."
    parser = command.FiguresParser("faults", what, _EPILOG, only=["damage"], case=0)
    add = parser.add_argument
    help_ = "begin no case after this time, which kinds share evenly; 4"
    add("--minutes", type=command.positive, default=4.0, help=help_)
    add("--seed", type=int, default=0, help="of all random choices; 0")
    add("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND", help="kinds of fault; all")
    add("--case", type=int, metavar="N", help="play this case of each kind, and no other, whatever time it takes")
    add("--keep", type=Path, metavar="FOLDER", help="leave what cases that are not survived wrote there")
    return parser.options(arguments)


def prepare(folder: Path) -> Bench:
    """Trains the reference, and once more for its time and to see that the same command gives the same.

    Raises:
      TrainingError: if either fails, or they are not the same.
    """
    bench = Bench(folder, _TRAIN, _EVALUATE, environment(folder), 0.0)
    case, again = Case(bench, "undisturbed", 0, 0), folder / "again"
    try:
        case.ended([*bench.train, "--workdir", bench.reference], 0)
        started = time.monotonic()
        case.ended([*bench.train, "--workdir", again], 0)
        seconds = time.monotonic() - started
        require_same(again, bench.reference)
    except Fault as error:
        raise TrainingError(f"training does not end well and alike where nothing disturbs it: {error}") from error
    return bench._replace(seconds=seconds)


_TRAIN = (
    *(sys.executable, "-m", "rnnjax.train", "--config", "configs/mnist.py:embedded"),
    *("--config.cell.hidden_size=8", "--config.epochs=6", "--config.parallel.batch=1"),
    *("--config.steps_per_call=12", "--config.log_every=6"),
)
_EVALUATE = (sys.executable, "-m", "rnnjax.evaluate")


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of all commands: on CPUs, outside of a cluster, their cache in the folder."""
    ours = {"JAX_PLATFORMS": "cpu", "RNNJAX_CACHE": str(folder / "cache")}
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_"))}
    return others | ours


def campaign(bench: Bench, kinds: Sequence[str], options: argparse.Namespace) -> Iterator[Played]:
    """Yields cases as they are played: one of each kind, or what the time allows, which the kinds share evenly."""
    if options.case is not None:
        yield from (play(bench, kind, options, options.case) for kind in kinds)
        return
    end = time.monotonic() + 60 * options.minutes
    used, next_case = dict.fromkeys(kinds, 0.0), collections.Counter()
    while kinds and time.monotonic() < end:
        kind = min(kinds, key=lambda each: used[each])
        played = play(bench, kind, options, next_case[kind])
        next_case[kind] += 1
        used[kind] += played.seconds
        yield played


def play(bench: Bench, kind: str, options: argparse.Namespace, number: int) -> Played:
    """Plays a case."""
    started, seen = time.monotonic(), None
    case = Case(bench, kind, options.seed, number)
    try:
        with case.removed(options.keep):
            KINDS[kind](case)
    except Fault as fault:
        seen = str(fault)
    except (OSError, ValueError, KeyError) as error:  # a result that cannot even be read
        seen = f"the result cannot be read: {type(error).__name__}: {error}"
    return Played(kind, number, time.monotonic() - started, case.answers, seen, case.log)


def failure(played: Played, seed: int) -> str:
    """Returns what was seen of a case that was not survived, and how to see it again."""
    again = f"python -m benchmarks.faults --only {played.kind} --case {played.number} --seed {seed}"
    return "\n".join([f"NOT SURVIVED: {again}", *(f"  {line}" for line in played.log), f"  seen: {played.seen}", ""])


def row(kind: str, played: Sequence[Played], barred: bool) -> Row:
    """Returns the counts of a kind."""
    answers = [seconds for each in played for seconds in each.answers]
    note = "not allowed here" if barred else f"slowest answer {max(answers):.1f} s" if answers else ""
    survived, seconds = sum(each.seen is None for each in played), sum(each.seconds for each in played)
    return Row(kind, len(played), survived, seconds, note)


if __name__ == "__main__":
    command.run(main)
