"""The summary of a run: its metrics and times, and what it was computed with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from rnnjax.files import is_number
from rnnjax.machine import device_name, git_commit, versions
from rnnjax.tasks.task import Task


def summarise(
    task: Task,
    rows: Sequence[dict[str, Any]],
    mesh: Mesh,
    *,
    seconds: float,
    seconds_to_first_step: float,
    steps_per_second: float,
    compile_seconds: float,
    input_wait: float,
) -> dict[str, Any]:
    """Returns the summary of a run.

    Args:
      task: the task.
      rows: lines of `metrics.jsonl`.
      mesh: the devices.
      seconds: that this process has spent on the run.
      seconds_to_first_step: of these, those before the first step, with choosing devices and compiling.
      steps_per_second: without compiling the training steps.
      compile_seconds: spent on tracing and compiling the training steps.
      input_wait: the share of the steps' time that the host spent on gathering and sending batches.
    """
    return {
        "final": {split: last_metrics(rows, split) for split in dict.fromkeys(row["split"] for row in rows)},
        "best": best_metrics(rows, task),
        "seconds": round(seconds, 3),
        "seconds_to_first_step": round(seconds_to_first_step, 3),
        "steps_per_second": round(steps_per_second, 3),
        "compile_seconds": round(compile_seconds, 3),
        "input_wait": round(input_wait, 4),
        "device": {
            "platform": jax.default_backend(),
            "kind": device_name(),
            "count": int(mesh.size),
        },
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


def last_metrics(rows: Sequence[dict[str, Any]], split: str) -> dict[str, Any]:
    """Returns the last metrics of a split; an empty dict if there are none."""
    return next((dict(row) for row in reversed(rows) if row["split"] == split), {})


def best_metrics(rows: Sequence[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Returns the validation metrics of the step that is best by the task's metric, the first of equals."""
    sign = 1 if task.higher_is_better else -1
    name = task.best_metric
    validation = [row for row in rows if row["split"] == "validation" and not math.isnan(row.get(name, math.nan))]
    return dict(max(validation, key=lambda row: sign * row[name], default={}))
