"""What is written down of a finished call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from rnnjax.errors import TrainingError
from rnnjax.tasks.task import Task
from rnnjax.training.checkpoint import Checkpoints, Unfinished
from rnnjax.training.event_log import EventLog
from rnnjax.training.log_window import LogWindow, Metrics, steps_in
from rnnjax.training.progress import Progress
from rnnjax.training.run_directory import RunDirectory


class Finished(NamedTuple):
    """A call whose results are on the way from the devices.

    Attributes:
      epoch: the epoch it belongs to, from 1.
      step: steps of the run after it.
      count: steps that it takes; 0 where it is but an evaluation.
      metrics: of each of its steps, and zeros after.
      validation: at the end of an epoch, metrics of the validation split.
      state: at the end of an epoch, the state to keep.
    """

    epoch: int
    step: int
    count: int
    metrics: Mapping[str, Array]
    validation: Mapping[str, Array] | None
    state: Any

    def on_host(self) -> dict[str, np.ndarray]:
        """Returns the metrics of its steps, ``[..., count]``, once they are there."""
        return {name: np.asarray(values)[..., : self.count] for name, values in self.metrics.items()}


class Record(NamedTuple):
    """The places where a run of a task is written down."""

    task: Task
    run: RunDirectory
    events: EventLog
    progress: Progress
    checkpoints: Checkpoints
    log_every: int
    window: LogWindow

    def write(self, finished: Finished) -> None:
        """Writes metrics, events, progress and, at the end of an epoch, a checkpoint.

        Raises:
          TrainingError: if the loss is not finite; the lines and checkpoints before it are kept.
        """
        rows = self._training_rows(finished) if finished.count else []
        validation = {}
        if finished.validation is not None:
            validation = self.task.complete(means(finished.validation))
            check_finite(np.array([validation["loss"]]), finished.step)
            rows.append({"step": finished.step, "epoch": finished.epoch, "split": "validation", **validation})
            self.progress.epoch(finished.epoch, validation)
        self.add(rows)
        if finished.state is not None:
            self.checkpoints.save(finished.step, finished.state, validation)

    def _training_rows(self, finished: Finished) -> list[dict[str, Any]]:
        metrics = finished.on_host()
        fine = finite_steps(metrics["loss"])
        before = {name: values[:fine] for name, values in metrics.items()}
        closed, step = self.window.closed(before, finished.step - finished.count + fine)
        rows = [self.task.complete(row) for row in training_rows(closed, step, finished.epoch, self.log_every)]
        if fine < finished.count:
            self.add(rows)
        check_finite(metrics["loss"], finished.step)
        last = {name: values[-self.log_every :] for name, values in metrics.items()}
        self.progress.advance(finished.step, self.task.complete(means(last)), metrics)
        return rows

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Writes lines of `metrics.jsonl`, and the events of them."""
        self.run.append_metrics(rows)
        self.events.write(rows)

    def save_unfinished(self, step: int, state: Any, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is there. `evaluation`: the validation is to follow."""
        self.checkpoints.save(step, state, {}, Unfinished(self.window.as_json(), evaluation))
        self.checkpoints.wait()


def training_rows(metrics: Metrics, step: int, epoch: int, log_every: int) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` for the steps before a step: means over every `log_every`, and the rest."""
    count = steps_in(metrics)
    return [
        {
            "step": step - count + min(first + log_every, count),
            "epoch": epoch,
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


def finite_steps(losses: np.ndarray) -> int:
    """Returns how many losses are finite before the first that is not."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    return int(wrong[0]) if wrong.size else len(losses)


def check_finite(losses: np.ndarray, step: int) -> None:
    """Raises `TrainingError` if a loss is not a finite number; `step` is the step after the last of them."""
    fine = finite_steps(losses)
    if fine < len(losses):
        at = step - len(losses) + fine + 1
        raise TrainingError(
            f"the loss of step {at} is {losses[fine]}: lower optimizer.learning_rate, or set optimizer.clip_norm"
        )
