"""The summary of a run: its metrics and times, and what it was computed with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rnnjax.files import is_number
from rnnjax.machine import device_name, git_commit, versions
from rnnjax.tasks.task import Task
from rnnjax.training.directory.model_file import parameter_count, shapes


def summarise(task: Task, rows: Sequence[dict[str, Any]], devices: int, times: Mapping[str, float]) -> dict[str, Any]:
    """Returns the summary of a run.

    Args:
      task: the task.
      rows: lines of `metrics.jsonl`.
      devices: that it was computed on.
      times: by name: `seconds` that this process has spent on the run, `steps_per_second` without compiling the
        training steps, `compile_seconds` of these, and for a run by itself `seconds_to_first_step`, with choosing
        devices and compiling, and `input_wait`, the share of the steps' time that the host spent on sending batches.
    """
    metrics = {"final": final_metrics(rows), "best": best_metrics(rows, task)}
    return {**metrics, "parameters": parameter_count(shapes(task)), **times, **computed_with(task, devices)}


def computed_with(task: Task, devices: int) -> dict[str, Any]:
    """Returns what results of a task on a number of devices were computed with: devices, versions and data."""
    return {
        "device": {"platform": jax.default_backend(), "kind": device_name(), "count": devices},
        "versions": versions(),
        "git_commit": git_commit(),
        "data": {"name": task.data.name, "source": task.data.source, "checksum": task.data.checksum},
    }


def is_summary(value: Any) -> bool:
    """Says whether a value from a JSON file is the summary of a run, from which a report can be made."""
    if not isinstance(value, dict) or not isinstance(value.get("device"), dict) or "kind" not in value["device"]:
        return False
    numbers = [value.get(name) for name in ("seconds", "steps_per_second", "compile_seconds")]
    final = value.get("final")
    if not isinstance(final, dict) or not all(isinstance(row, dict) for row in final.values()):
        return False
    metrics = [number for row in final.values() for name, number in row.items() if name != "split"]
    return all(map(is_number, [*numbers, value["device"].get("count"), *metrics]))


def final_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the last metrics of every split."""
    return {row["split"]: dict(row) for row in rows}


def score_of(task: Task, row: Mapping[str, Any]) -> float:
    """Returns the metric by which a task's runs are compared, its sign such that the highest is the best."""
    value = row.get(task.best_metric, math.nan)
    return value if task.higher_is_better else -value


def best_metrics(rows: Sequence[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Returns the validation metrics of the step that is best by the task's metric, the first of equals."""
    validation = [row for row in rows if row["split"] == "validation" and not math.isnan(score_of(task, row))]
    return dict(max(validation, key=lambda row: score_of(task, row), default={}))
