"""All that an accelerator must tell, in order of worth, within a time: ``python -m benchmarks.accelerator``."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks import command, processes
from benchmarks.accelerator.collecting import Targets, collect
from benchmarks.accelerator.records import DONE, Machine, Record, read_record, sources_digest
from benchmarks.accelerator.running import run_all
from benchmarks.accelerator.steps import PARTS, Step, picked, plan
from rnnjax.errors import TrainingError, require
from rnnjax.machine import git_commit

_EPILOG = """\
Steps are existing commands, each a process of its own with a time limit. What one gave is in DIR/STEP.json as soon as
it ends, what it said in DIR/STEP.log. Called again with the same DIR it goes on: a step that came to its end on this
device, of the same sources, is not run again, unless its file is removed; one that the budget stopped is. A step that
fails is recorded with its last lines, and the next one runs. Data is read from RNNJAX_DATA; nothing is downloaded.
"""


def main(arguments: Sequence[str]) -> None:
    """Lists, collects or runs.

    Raises:
      ConfigError: for unknown steps, a folder without results, or if JAX sees no accelerator.
      TrainingError: if a step did not come to its end.
    """
    options = parse(arguments)
    everything = plan(rehearse=options.rehearse)
    steps = picked(everything, options.steps) if options.steps else everything
    if options.collect:
        print("\n".join(collect(options.collect, [step.name for step in everything], Targets())))
    elif options.plan:
        show_plan(steps, options.out, options.budget)
    else:
        run(steps, options)


def run(steps: Sequence[Step], options: argparse.Namespace) -> None:
    """Runs steps, and prints a line for each as it ends."""
    options.out.mkdir(parents=True, exist_ok=True)
    machine, unfinished = this_machine(rehearsal=options.rehearse, commit=options.commit), []
    print(f"{machine.device}, rnnjax at {machine.revision}\n", flush=True)
    for step, found in run_all(steps, options.out.absolute(), machine, budget=options.budget):
        if isinstance(found, Record):
            if found.state != DONE:
                unfinished.append(step.name)
            found = f"{found.state}, {found.seconds:.0f} s: {found.in_short()}"
        print(f"{step.part}  {step.name:24}  {found}".rstrip(), flush=True)
    if unfinished:
        raise TrainingError(f"{len(unfinished)} steps did not come to their end: {', '.join(unfinished)}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "All that an accelerator must tell, in order of worth, within a time."
    parser = command.Parser("accelerator", what, _EPILOG)
    add = parser.add_argument
    add("--budget", type=command.positive, default=900.0, metavar="SECONDS", help="of all together; 900")
    add("--out", type=Path, metavar="DIR", help="where results are kept")
    parts = ", ".join(f"{letter} ({what})" for letter, what in PARTS.items())
    add("--steps", type=lambda text: text.split(","), metavar="A,B", help=f"names of steps, or parts: {parts}; all")
    add("--plan", action="store_true", help="list the steps, and what DIR has of them, and end")
    add("--rehearse", action="store_true", help="every step at toy size, on any machine")
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
    on_cpu = found["platform"] == "cpu"
    require(rehearsal or not on_cpu, "JAX runs on a CPU here; add --rehearse for sizes that fit")
    return Machine(found["device"], found["versions"], commit or git_commit(), sources_digest(), rehearsal)


def show_plan(steps: Iterable[Step], out: Path | None, budget: float) -> None:
    """Prints the steps, how long each is expected to take and may take, and what is there."""
    sources, total = sources_digest(), 0.0
    for step in steps:
        total += step.seconds
        missing = step.missing()
        there = "" if missing is None else f"needs {missing}, which is not installed"
        kept = read_record(out, step.name) if out else None
        if kept is not None:
            other = "" if kept.machine.sources == sources else ", of other sources"
            there = f"{kept.state}, {kept.seconds:.0f} s{other}"
        times = f"{step.seconds:4.0f} s, at most {step.limit:4.0f} s"
        print(f"{step.part}  {step.name:24}  {times}  {there}".rstrip())
    print(f"\n{total:.0f} s are expected in all, {budget:.0f} s are given")


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # so that the step under way is ended too
    command.run(main)
