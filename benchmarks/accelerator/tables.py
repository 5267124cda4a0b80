"""What steps gave, in short for the terminal, and as the tables of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import report
from benchmarks.accelerator.records import DONE, Record
from rnnjax.experiments import EXPERIMENTS


def in_short(record: Record) -> str:
    """Returns what a step gave in one line."""
    if record.state != DONE and record.last_lines:
        return record.last_lines[-1]
    results = record.results
    if record.step in EXPERIMENTS and results:
        result = results[record.step]
        figures = [f"{what} {statistics.fmean(values):.4f}" for what, values in result["figures"].items()]
        step = report.si(1 / statistics.fmean(result["steps_per_second"]), "s")
        return "; ".join([*figures, f"{step} a step"])
    if isinstance(results, dict) and "tests" in results:
        return f"{results['tests']} tests, {len(results['failed'])} failed, {results['skipped']} skipped"
    rows = results.get("rows") if isinstance(results, dict) else None
    if rows is None:
        return record.last_lines[-1] if record.last_lines else ""
    unable = sum(bool(row.get("reason")) for row in rows)
    return f"{len(rows)} rows" + (f", {unable} of them not measured" if unable else "")


def markdown(record: Record) -> str | None:
    """Returns a step as it stands in docs/performance.md, None if it has nothing to show there."""
    lines = _lines(record.results)
    if not lines:
        return None
    names = ("python", "jax", "jaxlib")
    versions = ", ".join(f"{name} {record.versions[name]}" for name in names if name in record.versions)
    commit = record.commit or f"sources {record.sources}"
    state = "" if record.state == DONE else f"; {record.state} after {record.seconds:.0f} s, what is here came before"
    return "\n".join([f"`{record.command}`: {record.device}, {versions}, rnnjax at {commit}{state}.", "", *lines])


def _lines(results: Any) -> list[str]:
    """Returns the counts of tests, or the table that a benchmark printed."""
    if not isinstance(results, dict):
        return []
    if "tests" in results:
        failed = f": {', '.join(results['failed'])}" if results["failed"] else ""
        return [f"{results['tests']} tests, {results['skipped']} skipped, {len(results['failed'])} failed{failed}."]
    if not results.get("table", {}).get("rows"):
        return []
    titles = results["table"]["titles"]
    rows = [[*row, *[""] * (len(titles) - len(row))] for row in results["table"]["rows"]]
    return [_line(titles), "|" + "---|" * len(titles), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
