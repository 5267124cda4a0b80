"""What the names in a line of `metrics.jsonl` are of: its place in the run, the optimiser, or the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

PLACE = ("run", "step", "epoch", "split")  # what a line has besides its values
OF_OPTIMIZER = ("learning_rate", "gradient_norm", "update_norm")


def numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a line, without its place."""
    return {name: value for name, value in row.items() if name not in PLACE}


def of_task(metrics: Mapping[str, T]) -> dict[str, T]:
    """Returns the metrics of the task, without what a step tells of the optimiser."""
    return {name: value for name, value in metrics.items() if name not in OF_OPTIMIZER}
