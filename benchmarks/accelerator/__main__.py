"""All that an accelerator must tell, in order of worth, within a time: ``python -m benchmarks.accelerator``."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks import command, processes, report
from benchmarks.accelerator.collecting import Targets, collect
from benchmarks.accelerator.fastest import write_known_devices
from benchmarks.accelerator.records import DONE, Machine, Record, read_record, sources_digest
from benchmarks.accelerator.running import Places, run_all
from benchmarks.accelerator.steps import PARTS, Step, picked, plan
from benchmarks.accelerator.tables import in_short
from benchmarks.report import Column
from rnnjax.errors import ConfigError, TrainingError
from rnnjax.machine import git_commit

_EPILOG = """\
Steps are existing commands, each a process of its own with a time limit. What one gave is in DIR/STEP.json as soon as
it ends, what it said in DIR/STEP.log. Called again with the same DIR it goes on: a step that came to its end on this
device, of the same sources, is not run again, one that the budget stopped is. A step that fails is recorded with its
last lines, and the next one runs. Data is read from RNNJAX_DATA; nothing is downloaded.
"""

_PLAN = (
    Column("", width=1, left=True),
    Column("step", width=24, left=True),
    Column("expected"),
    Column("limit", width=7),
    Column("all so far"),
    Column("in DIR", left=True),
)
_ROWS = (
    Column("", width=1, left=True),
    Column("step", width=24, left=True),
    Column("state", width=9, left=True),
    Column("took", width=7),
    Column("what", left=True),
)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: for unknown steps, a folder without results, or if JAX sees no accelerator.
      TrainingError: if a step did not come to its end.
    """
    options = parse(arguments)
    everything = plan(seeds=options.seeds, rehearse=options.rehearse)
    if options.collect:
        for said in collect(options.collect, [step.name for step in everything], Targets()):
            print(said)
        return
    steps = picked(everything, options.steps) if options.steps else everything
    if options.plan:
        show_plan(steps, options.out, options.budget)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    machine = this_machine(rehearsal=options.rehearse, commit=options.commit)
    # Of other sources no run is gone on with.
    runs = (options.runs or options.out / "runs") / machine.sources
    places = Places(options.out.absolute(), runs.absolute())
    print(f"{machine.device}, rnnjax at {machine.commit or machine.sources}\n\n{report.title_line(_ROWS)}", flush=True)
    unfinished = []
    for step, found in run_all(
        steps,
        places,
        machine,
        budget=options.budget,
        again=options.again,
        after=lambda: write_known_devices(places.out),
    ):
        print(report.line(_ROWS, row(step, found)), flush=True)
        if isinstance(found, Record) and found.state != DONE:
            unfinished.append(step.name)
    if unfinished:
        raise TrainingError(f"{len(unfinished)} steps did not come to their end: {', '.join(unfinished)}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    what = "All that an accelerator must tell, in order of worth, within a time."
    parser = command.Parser("accelerator", what, _EPILOG)
    add = parser.add_argument
    add("--budget", type=command.positive, default=900.0, metavar="SECONDS", help="of all together; 900")
    add("--out", type=Path, metavar="DIR", help="where results are kept")
    parts = ", ".join(f"{letter} ({what})" for letter, what in PARTS.items())
    add("--steps", type=lambda text: text.split(","), metavar="A,B", help=f"names of steps, or parts: {parts}; all")
    add("--plan", action="store_true", help="list the steps, and what DIR has of them, and end")
    add("--rehearse", action="store_true", help="every step at toy size, on any machine")
    add("--again", action="store_true", help="run steps again that failed or took too long")
    add("--seeds", type=command.at_least_one, default=1, help="of each published figure but those of large models; 1")
    add("--runs", type=Path, metavar="DIR", help="where runs are kept, to go on with; DIR/runs")
    add("--commit", help="what the sources are of, where git cannot tell")
    add("--collect", type=Path, metavar="DIR", help="merge the results there into docs and the table of known devices")
    options = parser.parse_args(arguments)
    if not (options.out or options.collect or options.plan):
        parser.error("where are results to be kept? give --out DIR")
    return options


def this_machine(*, rehearsal: bool, commit: str | None) -> Machine:
    """Returns what steps are run on, as a process finds out that leaves the device to them.

    Raises:
      ConfigError: if JAX does not start, or sees a CPU only and it is no rehearsal.
    """
    found = processes.machine()
    if found["platform"] == "cpu" and not rehearsal:
        raise ConfigError("JAX runs on a CPU here; add --rehearse for sizes that fit")
    return Machine(found["device"], found["versions"], commit or git_commit(), sources_digest(), rehearsal)


def show_plan(steps: Iterable[Step], out: Path | None, budget: float) -> None:
    """Prints the steps, how long each is expected to take, and what is there."""
    sources, total = sources_digest(), 0.0
    print(report.title_line(_PLAN))
    for step in steps:
        total += step.seconds
        kept = read_record(out, step.name) if out else None
        missing = step.missing()
        there = "" if missing is None else f"needs {missing}, which is not installed"
        if kept is not None:
            there = f"{kept.state}, {kept.seconds:.0f} s"
        if kept is not None and kept.sources != sources:
            there += ", of other sources"
        figures = (f"{step.seconds:.0f} s", f"{step.limit:.0f} s", f"{total:.0f} s")
        print(report.line(_PLAN, [step.part, step.name, *figures, there]))
    print(f"\n{total:.0f} s are expected in all, {budget:.0f} s are given")


def row(step: Step, found: Record | str) -> list[object]:
    """Returns a step as it is printed."""
    if isinstance(found, str):
        return [step.part, step.name, "", "", found]
    return [step.part, step.name, found.state, f"{found.seconds:.0f} s", in_short(found)]


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # so that the step under way is ended too
    command.run(main)
