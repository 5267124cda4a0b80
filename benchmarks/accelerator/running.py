"""Runs steps one after another, each as a process with its own limit, until the time of all is over."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.fastest import write_known_devices
from benchmarks.accelerator.records import (
    DONE,
    FAILED,
    STOPPED,
    TIMED_OUT,
    Machine,
    Record,
    read_record,
    write_record,
)
from benchmarks.accelerator.steps import Step
from benchmarks.processes import ROOT, end_group, start_group
from rnnjax.files import parse_json

_GRACE = 5.0  # seconds between the signal that asks a step to end and the one that ends it
_LINES, _WIDTH = 15, 300  # of what a step said last


def run_all(
    steps: Sequence[Step], out: Path, machine: Machine, *, budget: float
) -> Iterator[tuple[Step, Record | str]]:
    """Runs steps in turn; yields each with its record, or with a sentence if it was not run.

    Args:
      steps: the steps.
      out: where their files go.
      machine: what they are run on.
      budget: seconds that all of them may take. A step that is expected to take longer than what is left is passed
        over; one that does is stopped.
    """
    end = time.monotonic() + budget
    for step in steps:
        kept, missing, left = read_record(out, step.name), step.missing(), end - time.monotonic()
        if kept is not None and kept.counts(machine):
            yield step, f"is there: {kept.state}, {kept.seconds:.0f} s"
        elif missing is not None:
            yield step, f"left out: {missing} is not installed"
        elif (left < step.seconds and not machine.rehearsal) or left <= 0:
            yield step, f"passed over: needs about {step.seconds:.0f} s, and {max(left, 0):.0f} s are left"
        else:
            yield step, run_step(step, out, machine, left)
            write_known_devices(out)  # for those after it to go by


def run_step(step: Step, out: Path, machine: Machine, left: float) -> Record:
    """Runs a step and keeps its record.

    Args:
      step: the step.
      out: where its files go.
      machine: what it is run on.
      left: seconds until the time of all is over.
    """
    folder, log = out / step.name, out / f"{step.name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    results.unlink(missing_ok=True)
    runs = out / "runs" / machine.sources  # with those of other sources none is gone on
    command, state, started = step.command(results, folder, runs), STOPPED, time.monotonic()
    try:
        state = run_process([sys.executable, *command], log, min(step.limit, left), environment(out))
    finally:  # also where this process is told to end
        record = Record(
            step.name,
            STOPPED if state == TIMED_OUT and left < step.limit else state,
            round(time.monotonic() - started, 1),
            shlex.join(["python", *step.command(Path("FILE"), Path("DIR"), Path("RUNS"))]),
            last_lines(log),
            results_in(folder),
            machine,
        )
        if not machine.rehearsal and tested_nothing(record.results):
            record = record._replace(state=FAILED)
        write_record(out, record)
    return record


def environment(out: Path) -> dict[str, str]:
    """Returns the environment of a step: it finds the packages here, the data, and what kernels have shown so far."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if data := os.environ.get("RNNJAX_DATA"):
        found["RNNJAX_DATA"] = os.path.abspath(os.path.expanduser(data))
    known = out / "known_devices.json"
    return {**found, "RNNJAX_KNOWN_DEVICES": str(known)} if known.exists() else found


def run_process(command: Sequence[str], log: Path, limit: float, environment: dict[str, str]) -> str:
    """Runs a command in the repository, what it says in a file; returns how it ended.

    At its limit it is ended, with all that it started.

    Args:
      command: the command.
      log: the file.
      limit: seconds that it may take.
      environment: its environment.
    """
    with log.open("wb") as file:
        process = start_group(command, environment, file, subprocess.STDOUT)
        try:
            code = process.wait(max(limit - _GRACE, limit / 2))
            return FAILED if code else DONE
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            ask_to_end(process)
            end_group(process)


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process that goes on, and what it started, to end, and waits for it for a while."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_GRACE)


def last_lines(log: Path) -> list[str]:
    """Returns the last lines of a file, cut to a width."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    return [line[:_WIDTH] for line in lines if line.strip()][-_LINES:]


def results_in(folder: Path) -> Any:
    """Returns what a step wrote: its JSON, or the counts of its tests; None if nothing whole."""
    try:
        if (folder / "tests.xml").exists():
            return tests_in(folder / "tests.xml")
        return parse_json((folder / "results.json").read_bytes())
    except (OSError, ValueError, xml.etree.ElementTree.ParseError):
        return None


def tests_in(path: Path) -> dict[str, Any]:
    """Returns how many tests were run, failed and skipped, and the names of those that failed."""
    cases = list(xml.etree.ElementTree.parse(path).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"tests": len(cases), "failed": failed, "skipped": skipped}


def tested_nothing(results: Any) -> bool:
    """Says whether all tests of a step were skipped, as they are where JAX does not see the GPU."""
    return isinstance(results, dict) and "skipped" in results and results["skipped"] == results["tests"]
