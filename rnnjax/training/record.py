"""Records the results of a call: metrics, in their file and other sinks, progress and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from rnnjax.errors import TrainingError
from rnnjax.metric_names import OF_OPTIMIZER, of_task
from rnnjax.tasks.task import Task
from rnnjax.training.checkpoint import Checkpoints, Unfinished
from rnnjax.training.histograms import append_histograms, histogram_row
from rnnjax.training.log_window import LogWindow, Metrics, steps_in
from rnnjax.training.progress import Progress
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.state import as_items


class CallResults(NamedTuple):
    """The results of a call, which the devices may not have computed yet.

    Attributes:
      epoch: the epoch that the call belongs to, from 1.
      step: steps of the run after the call.
      count: steps that the call takes; 0 if it is only an evaluation.
      metrics: of each step, ``[..., most]``, zeros from `count` on.
      validation: after an evaluation, the metrics of the validation split.
      state: after an evaluation, the state for the checkpoint.
    """

    epoch: int
    step: int
    count: int
    metrics: Mapping[str, Float[Array, "*runs most"]]
    validation: Mapping[str, Float[Array, "*runs"]] | None
    state: Any

    def on_host(self) -> dict[str, Float[np.ndarray, "*runs count"]]:
        """Returns the metrics of the call's steps, when they have been computed."""
        return {name: np.asarray(values)[..., : self.count] for name, values in self.metrics.items()}


class Record(NamedTuple):
    """Records a run: in its directory and other sinks, as progress, and as checkpoints.

    Attributes:
      task: what is trained.
      run: the run directory.
      sinks: where lines go, `metrics.jsonl` first.
      progress: the progress bar.
      checkpoints: of the run.
      log_every: training steps that a line of `metrics.jsonl` covers.
      window: the training steps whose line is not complete yet.
      histograms: whether the parameters' histograms are recorded at every evaluation.
    """

    task: Task
    run: RunDirectory
    sinks: Sinks
    progress: Progress
    checkpoints: Checkpoints
    log_every: int
    window: LogWindow
    histograms: bool = False

    def write(self, results: CallResults) -> None:
        """Writes metrics, events, progress and, at the end of an epoch, a checkpoint.

        Raises:
          TrainingError: if the loss is not finite; lines and checkpoints of earlier steps are written.
        """
        rows = self._training_rows(results) if results.count else []
        validation = {}
        if results.validation is not None:
            validation = self.task.metrics(means(results.validation))
            # Before the checkpoint: one of a run that has failed must not be resumed from.
            check_finite(np.array([validation["loss"]]), results.step)
            rows.append({"step": results.step, "epoch": results.epoch, "split": "validation", **validation})
            self.progress.epoch(results.epoch, validation)
        self.add(rows)
        if self.histograms and results.state is not None:
            self._add_histograms(results)
        if results.state is not None:
            self.checkpoints.save(results.step, as_items(results.state), validation)

    def _training_rows(self, results: CallResults) -> list[dict[str, Any]]:
        metrics = results.on_host()
        finite = finite_steps(metrics["loss"])
        finite_metrics = {name: values[:finite] for name, values in metrics.items()}
        # Only steps before the first loss that is not finite get lines.
        lines, step = self.window.take_complete(finite_metrics, results.step - results.count + finite)
        rows = [self.task.metrics(row) for row in training_rows(lines, step, results.epoch, self.log_every)]
        rows = [finite_of_optimizer(row) for row in rows]
        if finite < results.count:
            self.add(rows)  # before the error is raised
        check_finite(metrics["loss"], results.step)
        shown = of_task(metrics)
        last_metrics = {name: values[-self.log_every :] for name, values in shown.items()}
        self.progress.advance(results.step, self.task.metrics(means(last_metrics)), shown)
        return rows

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Writes lines of `metrics.jsonl`, and the same to the sinks that follow it."""
        self.sinks.write(rows)

    def _add_histograms(self, results: CallResults) -> None:
        row = histogram_row(results.state.params, results.step, results.epoch)
        if self.run.writes:
            append_histograms(self.run.path, row)
            self.sinks.follow([row])

    def save_unfinished(self, step: int, state: Any, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is complete.

        Args:
          step: steps of the run so far.
          state: after them.
          evaluation: whether the validation split is still to be evaluated after this step.
        """
        self.checkpoints.save(step, as_items(state), {}, Unfinished(self.window.as_json(), evaluation))
        self.checkpoints.wait()


def training_rows(metrics: Metrics, step: int, epoch: int, log_every: int) -> list[dict[str, Any]]:
    """Returns lines of `metrics.jsonl`.

    Args:
      metrics: of each of the last steps, ``[steps]``.
      step: steps of the run after these.
      epoch: that they belong to, from 1.
      log_every: how many steps each line is the mean of; the last one may be of fewer.
    """
    count = steps_in(metrics)
    return [
        {
            # The last step that the line covers.
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


def finite_of_optimizer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line without what it has of the optimiser that is not finite, such as the norm of a last gradient."""
    return {name: value for name, value in row.items() if name not in OF_OPTIMIZER or math.isfinite(value)}


def finite_steps(losses: Float[np.ndarray, " steps"]) -> int:
    """Returns the number of losses before the first that is not finite."""
    not_finite = np.flatnonzero(~np.isfinite(losses))
    return int(not_finite[0]) if not_finite.size else len(losses)


def check_finite(losses: Float[np.ndarray, " steps"], step: int) -> None:
    """Raises `TrainingError` if a loss is not finite; `step` is the step of the last one."""
    finite = finite_steps(losses)
    if finite < len(losses):
        at = step - len(losses) + finite + 1
        raise TrainingError(
            f"the loss of step {at} is {losses[finite]}: lower optimizer.learning_rate, or set optimizer.clip_norm"
        )
