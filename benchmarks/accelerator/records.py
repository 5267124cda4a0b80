"""What is kept of a step: a file, written when it ends, that tells of which sources it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import ROOT
from rnnjax.files import is_object, read_json, write_json

DEVICE_TABLE = ROOT / "rnnjax" / "unrolling" / "device_table.py"
_SOURCES = ("rnnjax", "benchmarks", "configs", "tests/kernels")

DONE, FAILED, TIMED_OUT, STOPPED = "done", "failed", "timed out", "stopped"


class Machine(NamedTuple):
    """What steps are run on and of: device, versions, commit, a digest of the sources, and whether sizes are toys'."""

    device: str
    versions: Mapping[str, str]
    commit: str | None
    sources: str
    rehearsal: bool


class Record(NamedTuple):
    """What is kept of a step.

    Attributes:
      step: its name.
      state: "done", "failed", "timed out" by its own limit, or "stopped" with the whole plan, before its end.
      seconds: that it took.
      command: as a person would type it.
      last_lines: of what it said.
      results: what it wrote, None if nothing; of a step that did not end well, what it had written by then.
      device, versions, commit, sources, rehearsal: of the `Machine`.
    """

    step: str
    state: str
    seconds: float
    command: str
    last_lines: list[str]
    results: Any
    device: str
    versions: dict[str, str]
    commit: str | None
    sources: str
    rehearsal: bool

    def counts(self, machine: Machine) -> bool:
        """Says whether the step need not be run again on a machine: it came to its end there, of the same sources."""
        same = (self.device, self.sources, self.rehearsal) == (machine.device, machine.sources, machine.rehearsal)
        return same and self.state != STOPPED


def record_path(folder: Path, step: str) -> Path:
    """Returns the path of a step's file."""
    return folder / f"{step}.json"


def write_record(folder: Path, record: Record) -> None:
    """Writes the file of a step atomically."""
    write_json(record_path(folder, record.step), record._asdict())


def read_record(folder: Path, step: str) -> Record | None:
    """Returns what is kept of a step, None if there is nothing that can be read."""
    value = read_json(record_path(folder, step), _fits, "the step is run again")
    return None if value is None else Record(**value)


def _fits(value: Any) -> bool:
    return is_object(value) and set(value) == set(Record._fields)


def sources_digest(root: Path = ROOT) -> str:
    """Returns a digest of all Python files that steps run, without the table that their results go into.

    So what is there counts until the code changes, whatever is committed of documents and results.
    """
    digest = hashlib.sha256()
    paths = {path for folder in _SOURCES for path in (root / folder).rglob("*.py")}
    for path in sorted(paths - {root / DEVICE_TABLE.relative_to(ROOT)}):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
