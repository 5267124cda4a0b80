"""What is written down of a finished call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from rnnjax.errors import TrainingError
from rnnjax.tasks.task import Task
from rnnjax.training.checkpoint import Checkpoints
from rnnjax.training.event_log import EventLog
from rnnjax.training.progress import Progress
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.state import TrainState


class Finished(NamedTuple):
    """A call whose results are on the way from the devices.

    Attributes:
      epoch: the epoch it belongs to, from 1.
      step: steps of the run after it.
      metrics: of each of its steps.
      validation: at the end of an epoch, metrics of the validation split.
      state: at the end of an epoch, the state to keep.
    """

    epoch: int
    step: int
    metrics: Mapping[str, Array]
    validation: Mapping[str, Array] | None
    state: TrainState | None


class Record(NamedTuple):
    """The places where a run of a task is written down."""

    task: Task
    run: RunDirectory
    events: EventLog
    progress: Progress
    checkpoints: Checkpoints
    log_every: int

    def write(self, finished: Finished) -> None:
        """Writes metrics, events, progress and, at the end of an epoch, a checkpoint.

        Raises:
          TrainingError: if the loss is not finite; the checkpoints before it are kept.
        """
        metrics = {name: np.asarray(value) for name, value in finished.metrics.items()}
        check_finite(metrics["loss"], finished.step)
        rows: list[dict[str, Any]] = [
            self.task.complete(row) for row in training_rows(metrics, finished, self.log_every)
        ]
        self.progress.advance(finished.step, numbers(rows[-1]), metrics)
        validation = {}
        if finished.validation is not None:
            validation = self.task.complete(means(finished.validation))
            check_finite(np.array([validation["loss"]]), finished.step)
            rows.append({"step": finished.step, "epoch": finished.epoch, "split": "validation", **validation})
            self.progress.epoch(finished.epoch, validation)
        self.run.append_metrics(rows)
        self.events.write(rows)
        if finished.state is not None:
            self.checkpoints.save(finished.step, finished.state, validation)


def training_rows(metrics: Mapping[str, np.ndarray], finished: Finished, log_every: int) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` for a call: means over every `log_every` of its steps, and over the rest."""
    count = len(metrics["loss"])
    return [
        {
            "step": finished.step - count + min(first + log_every, count),
            "epoch": finished.epoch,
            "split": "train",
            **means({name: value[first : first + log_every] for name, value in metrics.items()}),
        }
        for first in range(0, count, log_every)
    ]


def means(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the means as Python numbers."""
    return {name: float(np.mean(value)) for name, value in values.items()}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics in a line of `metrics.jsonl`."""
    return {name: value for name, value in row.items() if name not in ("step", "epoch", "split")}


def check_finite(losses: np.ndarray, step: int) -> None:
    """Raises `TrainingError` if a loss is not a finite number; `step` is the step after the last of them."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    if wrong.size:
        at = step - len(losses) + int(wrong[0]) + 1
        raise TrainingError(
            f"the loss of step {at} is {losses[wrong[0]]}: lower optimizer.learning_rate, or set optimizer.clip_norm"
        )
