"""Merges what steps gave into docs/results.json, docs/performance.md and the table of known devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator.fastest import as_python, fastest_rows
from benchmarks.accelerator.records import DEVICE_TABLE, Record, read_record
from benchmarks.accelerator.tables import markdown
from benchmarks.processes import ROOT
from rnnjax.errors import ConfigError
from rnnjax.experiments import EXPERIMENTS
from rnnjax.files import is_object, read_json, write_json, write_text
from rnnjax.reproduce import table
from rnnjax.unrolling.device_table import ROWS
from rnnjax.unrolling.known_devices import Row

_BEGIN, _END = "<!-- accelerator: begin -->", "<!-- accelerator: end -->"
_NOTHING = "Nothing is measured yet.\n"


class Targets(NamedTuple):
    """The files that results are merged into."""

    results: Path = ROOT / "docs" / "results.json"
    results_table: Path = ROOT / "docs" / "results.md"
    performance: Path = ROOT / "docs" / "performance.md"
    devices: Path = DEVICE_TABLE


def collect(folder: Path, steps: Sequence[str], targets: Targets, *, known: Sequence[Row] = ROWS) -> Iterator[str]:
    """Merges what is in a folder; yields a sentence for each thing that was done, or left as it was.

    Args:
      folder: of the records.
      steps: names of all steps, in the order of the plan.
      targets: the files.
      known: the rows that the table of known devices has.

    Raises:
      ConfigError: if the folder has no records, or those of a rehearsal, or a file lacks its markers.
    """
    found = [record for record in (read_record(folder, step) for step in steps) if record is not None]
    if not found:
        raise ConfigError(f"{folder} has no results; name the folder that --out named")
    if any(record.rehearsal for record in found):
        raise ConfigError(f"{folder} is of a rehearsal, whose sizes are toys'; nothing of it belongs into documents")
    yield from merge_results(found, targets)
    yield from merge_tables(found, steps, targets.performance)
    yield from merge_devices(found, targets.devices, known)


def merge_results(records: Sequence[Record], targets: Targets) -> Iterator[str]:
    """Merges the rows of published figures; one of fewer seeds than what is there does not replace it."""
    results = read_json(targets.results, is_object, "nothing is written there")
    if results is None:
        raise ConfigError(f"{targets.results} cannot be read; nothing is merged")
    for record in records:
        if record.step not in EXPERIMENTS or not record.results:
            continue
        new = record.results[record.step]
        seeds, before = _seeds(new), _seeds(results.get(record.step))
        if seeds < before:
            yield f"{record.step}: left as it was, of {before} seeds and not {seeds}"
            continue
        results[record.step] = new | {"git_commit": new["git_commit"] or record.commit}
        yield f"{record.step}: merged"
    write_json(targets.results, results)
    write_text(targets.results_table, table(results))


def _seeds(result: dict[str, Any] | None) -> int:
    return 0 if result is None else max(map(len, result["figures"].values()), default=0)


def merge_tables(records: Sequence[Record], steps: Sequence[str], page: Path) -> Iterator[str]:
    """Writes the tables between the page's markers; those of other steps stay."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"{_BEGIN}\n")
    inside, end, after = rest.partition(_END)
    if not begin or not end:
        raise ConfigError(f"{page} has no lines {_BEGIN} and {_END}; write them where the tables belong")
    tables = dict(re.findall(r"<!-- step (\w+) -->\n(.*?)(?=\n<!-- step |\Z)", inside, re.DOTALL))
    for record in records:
        made = markdown(record)
        if made is not None:
            tables[record.step] = f"\n{made}\n"
            yield f"{record.step}: in {page.name}"
    parts = [f"<!-- step {step} -->\n{tables[step].rstrip()}\n\n" for step in steps if step in tables]
    write_text(page, f"{before}{begin}{''.join(parts).rstrip() or _NOTHING.rstrip()}\n{end}{after}")


def merge_devices(records: Sequence[Record], path: Path, known: Sequence[Row]) -> Iterator[str]:
    """Writes the fastest methods to the table of known devices; rows of the same sizes give way, others stay."""
    new = fastest_rows(record for record in records if record.step.startswith("kernels_"))
    if not new:
        return
    merged = {_what(row): row for row in (*known, *new)}
    rows = sorted(merged.values(), key=_what)
    write_text(path, as_python(rows, path.read_text(encoding="utf-8").split('"""')[1]))
    yield f"{path.name}: {len(new)} rows of {', '.join(sorted({row.device for row in new}))}"


def _what(row: Row) -> tuple[str, str, str, int, int]:
    return row.device, row.cell, row.dtype, row.hidden, row.batch
