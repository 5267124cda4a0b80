"""Merges what steps gave into docs/results.json, docs/performance.md and the table of known devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator.fastest import fastest_rows, what_of, write_table
from benchmarks.accelerator.records import DONE, Record, read_record
from benchmarks.processes import ROOT
from rnnjax.errors import ConfigError, require
from rnnjax.experiments import EXPERIMENTS
from rnnjax.files import is_object, read_json, write_json, write_text
from rnnjax.reproduce import table
from rnnjax.unrolling.known_devices import SHIPPED, rows_in

_BEGIN, _END = "<!-- accelerator: begin -->\n", "<!-- accelerator: end -->"


class Targets(NamedTuple):
    """The files that results are merged into."""

    results: Path = ROOT / "docs" / "results.json"
    results_table: Path = ROOT / "docs" / "results.md"
    performance: Path = ROOT / "docs" / "performance.md"
    devices: Path = SHIPPED


def collect(folder: Path, steps: Sequence[str], targets: Targets) -> Iterator[str]:
    """Merges what is in a folder; yields a sentence for each thing that was done, or left as it was.

    Args:
      folder: of the records.
      steps: names of all steps, in the order of the plan.
      targets: the files.

    Raises:
      ConfigError: if the folder has no records, or those of a rehearsal, or a file lacks its markers.
    """
    found = [record for record in (read_record(folder, step) for step in steps) if record is not None]
    require(bool(found), f"{folder} has no results; name the folder that --out named")
    toys = any(record.machine.rehearsal for record in found)
    require(not toys, f"{folder} is of a rehearsal, whose sizes are toys'; nothing of it belongs into documents")
    yield from merge_results(found, targets)
    yield from merge_tables(found, steps, targets.performance)
    yield merge_devices(folder, targets.devices)


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
        results[record.step] = new | {"git_commit": new["git_commit"] or record.machine.commit}
        yield f"{record.step}: merged"
    write_json(targets.results, results)
    write_text(targets.results_table, table(results))


def _seeds(result: dict[str, Any] | None) -> int:
    return 0 if result is None else max(map(len, result["figures"].values()), default=0)


def merge_tables(records: Sequence[Record], steps: Sequence[str], page: Path) -> Iterator[str]:
    """Writes the tables between the page's markers; those of other steps stay."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    inside, end, after = rest.partition(_END)
    require(bool(begin and end), f"{page} has no lines {_BEGIN.strip()} and {_END}; write them where the tables belong")
    tables = dict(re.findall(r"<!-- step (\w+) -->\n(.*?)\n\n(?=<!-- step |\Z)", inside, re.DOTALL))
    for record in records:
        lines = markdown(record.results)
        if lines:
            tables[record.step] = "\n".join(["", where_from(record), "", *lines])
            yield f"{record.step}: in {page.name}"
    parts = [f"<!-- step {step} -->\n{tables[step]}\n\n" for step in steps if step in tables]
    write_text(page, f"{before}{begin}{''.join(parts) or inside}{end}{after}")


def where_from(record: Record) -> str:
    """Returns what stands above a step's table."""
    machine = record.machine
    state = "" if record.state == DONE else f"; {record.state} after {record.seconds:.0f} s, what is here came before"
    versions = machine.named_versions("python", "jax", "jaxlib")
    return f"`{record.command}`: {machine.device}, {versions}, rnnjax at {machine.revision}{state}."


def markdown(results: Any) -> list[str]:
    """Returns the counts of tests, or the table that a benchmark printed."""
    if not isinstance(results, dict):
        return []
    if "tests" in results:
        failed = f": {', '.join(results['failed'])}" if results["failed"] else ""
        return [f"{results['tests']} tests, {results['skipped']} skipped, {len(results['failed'])} failed{failed}."]
    table = results.get("table", {"rows": []})
    if not table["rows"]:
        return []
    columns = len(table["titles"])
    lines = [table["titles"], ["---"] * columns, *([*row, *[""] * (columns - len(row))] for row in table["rows"])]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def merge_devices(folder: Path, path: Path) -> str:
    """Writes the fastest methods to the table of known devices; rows of the same sizes give way, others stay."""
    new = fastest_rows(folder)
    write_table(path, {what_of(row): row for row in (*rows_in(path), *new)}.values())
    return f"{path.name}: {len(new)} rows of {', '.join(sorted({row.device for row in new})) or 'no device'}"
