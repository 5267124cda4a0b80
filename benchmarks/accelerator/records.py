"""What is kept of a step: a file, written when it ends, that tells of which sources it is."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.processes import ROOT
from rnnjax.experiments import EXPERIMENTS
from rnnjax.files import is_object, read_json, write_json

_SOURCES = ("rnnjax", "benchmarks", "configs", "tests/kernels")

DONE, FAILED, TIMED_OUT, STOPPED = "done", "failed", "timed out", "stopped"


class Machine(NamedTuple):
    """What steps are run on and of: device, versions, commit, a digest of the sources, and whether sizes are toys'."""

    device: str
    versions: Mapping[str, str]
    commit: str | None
    sources: str
    rehearsal: bool

    @property
    def revision(self) -> str:
        """The commit, or the digest where git did not tell."""
        return self.commit or f"sources {self.sources}"

    def named_versions(self, *names: str) -> str:
        """Returns some of the versions in words."""
        return ", ".join(f"{name} {self.versions[name]}" for name in names if name in self.versions)


class Record(NamedTuple):
    """What is kept of a step.

    Attributes:
      step: its name.
      state: "done", "failed", "timed out" by its own limit, or "stopped" with the whole plan, before its end.
      seconds: that it took.
      command: as a person would type it.
      last_lines: of what it said.
      results: what it wrote, None if nothing; of a step that did not end well, what it had written by then.
      machine: what it ran on.
    """

    step: str
    state: str
    seconds: float
    command: str
    last_lines: list[str]
    results: Any
    machine: Machine

    def counts(self, machine: Machine) -> bool:
        """Says whether the step need not be run again on a machine: it came to its end there, of the same sources."""
        same = self.machine._replace(versions=machine.versions, commit=machine.commit) == machine
        return same and self.state != STOPPED

    def in_short(self) -> str:
        """Returns what the step gave in one line."""
        results, last = self.results, self.last_lines[-1] if self.last_lines else ""
        if self.state != DONE or not isinstance(results, dict):
            return last
        if self.step in EXPERIMENTS:
            result = results[self.step]
            figures = [f"{what} {statistics.fmean(values):.4f}" for what, values in result["figures"].items()]
            step = report.si(1 / statistics.fmean(result["steps_per_second"]), "s")
            return "; ".join([*figures, f"{step} a step"])
        if "tests" in results:
            return f"{results['tests']} tests, {len(results['failed'])} failed, {results['skipped']} skipped"
        unable = sum(bool(row.get("reason")) for row in results["rows"])
        return f"{len(results['rows'])} rows, {unable} of them not measured"


def write_record(folder: Path, record: Record) -> None:
    """Writes the file of a step atomically."""
    write_json(folder / f"{record.step}.json", record._asdict() | {"machine": record.machine._asdict()})


def read_record(folder: Path, step: str) -> Record | None:
    """Returns what is kept of a step, None if there is nothing that can be read."""
    value = read_json(folder / f"{step}.json", _fits, "the step is run again")
    return None if value is None else Record(**{**value, "machine": Machine(**value["machine"])})


def _fits(value: Any) -> bool:
    return is_object(value) and set(value) == set(Record._fields) and set(value["machine"]) == set(Machine._fields)


def sources_digest(root: Path = ROOT) -> str:
    """Returns a digest of all Python files that steps run.

    So what is there counts until the code changes, whatever is committed of documents and results.
    """
    digest = hashlib.sha256()
    for path in sorted(path for folder in _SOURCES for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
