"""Checks of what a task of one's own reads and returns, each of which raises `ConfigError` with one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rnnjax.errors import ConfigError, require
from rnnjax.tasks.task import Batch, Metrics, Task, Weighted


def check_examples(task: Task) -> None:
    """Raises unless all fields of a split have one value for each example."""
    for split, fields in task.data.splits.items():
        counts = {name: len(values) for name, values in fields.items()}
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        require(
            len(set(counts.values())) <= 1, f"all fields of the {split} split must be of as many examples, got {shown}"
        )


def check_inputs(task: Task) -> None:
    """Raises unless `inputs` has the sizes of those fields of the data that it names."""
    for name, field in task.inputs.items():
        if name in task.data.splits.get("train", {}):
            got = _shape(name, task.data.splits["train"][name])
            fits = len(got) == len(field.shape) and all(
                isinstance(size, str) or size == number for size, number in zip(field.shape, got)
            )
            shown = f"[{', '.join(map(str, field.shape))}]"
            task_name = type(task).__module__
            require(fits, f"inputs of the task {task_name} says that {name} is {shown}, but the data has {list(got)}")


def _shape(name: str, values: Any) -> tuple[int, ...]:
    try:
        return np.shape(values)
    except ValueError:
        raise ConfigError(f"{name} of the data is no array, as its examples differ in shape; pad them") from None


def check_kept(task: Task) -> None:
    """Raises unless what the task keeps of its data can be written into `model.json`."""
    for name, value in task.kept.items():
        try:
            json.dumps(value)
        except TypeError as error:
            task_name, why = type(task).__module__, str(error)
            raise ConfigError(
                f"the task {task_name} keeps {name!r}, which JSON cannot hold ({why}); convert it, as by .tolist()"
            ) from None


def metrics_of(task: Task, means: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the task's `metrics` of means as numbers, raising unless the loss is still among them."""
    returned = task.metrics(dict(means))
    whole = isinstance(returned, Mapping) and ("loss" in returned or "loss" not in means)
    name = type(task).__module__
    require(
        whole, f"metrics of the task {name} must return the means that it is given, the loss at least: {{**means, ...}}"
    )
    return _numbers(name, returned)


def scores_of(task: Task, params: Any, split: str) -> dict[str, Any]:
    """Returns the task's `scores` as numbers.

    Args:
      task: the task.
      params, split: as in `Task.scores`.
    """
    return _numbers(type(task).__module__, task.scores(params, split))


def _numbers(task_name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns metrics, each that is an array of one number as that number, which JSON can hold."""
    for name, value in metrics.items():
        size = np.shape(value)
        require(size == (), f"the metric {name!r} of the task {task_name} must be a number, got shape {list(size)}")
    return {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}


def check_splits(task: Task) -> None:
    """Raises unless there is all that a run reads: what it trains on, is evaluated on, and is tested on."""
    missing = [split for split in ("train", "validation", "test") if split not in task.data.splits]
    name = type(task).__module__
    require(not missing, f"the data of the task {name} has no split {', '.join(missing)}; have read return it")


def check_best_metric(task: Task, row: Mapping[str, Any]) -> None:
    """Raises unless the metrics of the validation split have the one that decides which parameters are best."""
    known = f"choose best_metric from {', '.join(sorted(row))}"
    require(task.best_metric in row, f"the task {type(task).__module__} has no metric {task.best_metric!r}; {known}")


def checked_loss(task: Task, params: Any, carry: Any, batch: Batch, key: Any) -> tuple[Metrics, Any]:
    """Returns what the task's `loss` does, raising unless it is a metric `loss`, a value of each example, and a carry.

    Args:
      task: the task.
      params, carry, batch, key: as in `Task.loss`.
    """
    returned = task.loss(params, carry, batch, key)
    name = type(task).__module__
    pair = isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], dict)
    require(
        pair, f"loss of the task {name} must return a dict of metrics, and the carry, got {type(returned).__name__}"
    )
    metrics, carry = returned
    require("loss" in metrics, f"loss of the task {name} must return a metric 'loss', got {', '.join(metrics)}")
    examples = np.shape(jax.tree.leaves(batch)[0])[:1]
    for metric, values in metrics.items():
        for value in values if isinstance(values, Weighted) else (values,):
            got = np.shape(value)
            require(
                got == examples,
                f"the metric {metric!r} of the task {name} must have a value for each example of a batch, "
                f"[B] = {list(examples)}, got {list(got)}; take the mean over all axes but the first",
            )
    return metrics, carry
