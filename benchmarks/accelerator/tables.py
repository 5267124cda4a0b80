"""What steps gave, in short for the terminal, and as the tables of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
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
    table = _TABLES.get(record.step)
    lines = table(record.results) if table is not None and record.results else []
    if not lines:
        return None
    names = ("python", "jax", "jaxlib")
    versions = ", ".join(f"{name} {record.versions[name]}" for name in names if name in record.versions)
    commit = record.commit or f"sources {record.sources}"
    state = "" if record.state == DONE else f"; {record.state} after {record.seconds:.0f} s, what is here came before"
    return "\n".join([f"`{record.command}`: {record.device}, {versions}, rnnjax at {commit}{state}.", "", *lines])


def _lines(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles), *body] if body else []


def _kernels(results: dict[str, Any]) -> list[str]:
    titles = ("cell", "heads x H", "B", "T", "type", "from", "contender", "forward", "both", "of floor", "error")
    return _lines(titles, [_kernel_cells(row) for row in results["rows"]])


def _kernel_cells(row: dict[str, Any]) -> list[object]:
    start = [row["cell"], f"{row['heads']} x {row['H']}", row["B"], row["T"], row["dtype"]]
    start += ["x" if row["projected"] else "z", row["contender"]]
    if row["both_seconds"] is None:
        return [*start, row["reason"], "", "", ""]
    forward, both = (row[name]["median"] for name in ("forward_seconds", "both_seconds"))
    share = "" if row["floor_seconds"] is None else f"{row['floor_seconds']['both'] / both:.0%}"
    return [*start, report.si(forward, "s"), report.si(both, "s"), share, f"{row['error']:.1e}"]


def _tests(results: dict[str, Any]) -> list[str]:
    failed = f": {', '.join(results['failed'])}" if results["failed"] else ""
    return [f"{results['tests']} tests, {results['skipped']} skipped, {len(results['failed'])} failed{failed}."]


def _methods(results: dict[str, Any]) -> list[str]:
    rows = [
        (row["cell"], row["dtype"], f"`{row['method']}`", row["given"] or "", _error(row), row["reason"] or "")
        for row in results["rows"]
    ]
    return _lines(("cell", "type", "method", "with", "error", "remark"), rows)


def _error(row: dict[str, Any]) -> str:
    text = "" if row["error"] is None else f"{row['error']:.1e}"
    return f"**{text} ({row['part']})**" if row["wrong"] else text


def _sweeps(results: dict[str, Any]) -> list[str]:
    rows = [
        (
            row["seeds"],
            *(report.si(row[name], "s") for name in ("runs_seconds", "sweep_seconds")),
            f"{row['ratio']:.2f}",
        )
        for row in results["rows"]
    ]
    return _lines(("seeds", "runs one after the other", "as one sweep", "ratio"), rows)


def _memory(results: dict[str, Any]) -> list[str]:
    rows = [
        (row["cell"], row["reads"], row["T"], row["method"], *_used(row), report.si(row["run_seconds"], "s"))
        for row in results["rows"]
    ]
    return _lines(("cell", "reads", "T", "method", "memory", "growth", "run"), rows)


def _used(row: dict[str, Any]) -> tuple[str, str]:
    return report.si(row["temp_bytes"], "B"), "" if row["growth"] is None else f"{row['growth']:.2f}"


def _time(results: dict[str, Any]) -> list[str]:
    rows = [
        (*(row[name] for name in ("cell", "T", "B", "H", "direction", "way")), *_timed(row)) for row in results["rows"]
    ]
    return _lines(
        ("cell", "T", "B", "H", "direction", "way", "run", "over scan", "share of the floor", "compile"), rows
    )


def _timed(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["skipped"] is not None:
        return row["skipped"], "", "", ""
    speed = "" if row["speed_over_scan"] is None else f"{row['speed_over_scan']:.2f}"
    run, built = (report.si(row[name], "s") for name in ("run_seconds", "compile_seconds"))
    return run, speed, f"{row['share_of_floor']:.0%}", built


def _beside_torch(results: dict[str, Any]) -> list[str]:
    rows = [
        (row["model"], report.si(row["seconds_per_step"], "s"), f"{row['rate']:.0f}")
        for row in results["rows"]
        if row["seconds"] is not None
    ]
    return _lines((f"model of {results['settings']['variant']}", "a step", "images/s or words/s"), rows)


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "tests": _tests,
    "two_kernels": _tests,
    "methods": _methods,
    "kernels_base": _kernels,
    "kernels_trained": _kernels,
    "kernels_grid": _kernels,
    "torch_mnist": _beside_torch,
    "torch_language_model": _beside_torch,
    "sweeps": _sweeps,
    "memory": _memory,
    "time": _time,
}
