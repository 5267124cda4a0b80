"""Records the results of calls: metrics, progress and checkpoints, of a run by itself or of many."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rnnjax.errors import TrainingError
from rnnjax.metric_names import OF_OPTIMIZER, of_task
from rnnjax.tasks.checks import check_best_metric, metrics_of, scores_of
from rnnjax.training.directory.checkpoint import Checkpoints, Unfinished
from rnnjax.training.engine import Engine
from rnnjax.training.log_window import LogWindow, Metrics, steps_in
from rnnjax.training.progress import Progress
from rnnjax.training.sinks.sink import Row, Sinks
from rnnjax.training.state import params_of_run
from rnnjax.training.step import TrainState


class Beginning(NamedTuple):
    """What training begins with.

    Attributes:
      states: of every run, on the devices.
      step: number of steps that led to them.
      unfinished: what the runs were doing when they were stopped, if they are resumed.
    """

    states: TrainState
    step: int
    unfinished: Unfinished


class CallResults(NamedTuple):
    """The results of a call, which the devices may not have computed yet.

    Attributes:
      epoch: the epoch that the call belongs to, from 1.
      step: steps of each run after the call.
      count: steps that the call takes; 0 if it is only an evaluation.
      metrics: of each step, ``[runs, most]``, zeros from `count` on.
      validation: after an evaluation, the metrics of the validation split.
      state: after an evaluation, the state for the checkpoint.
    """

    epoch: int
    step: int
    count: int
    metrics: Mapping[str, Float[Array, "runs most"]]
    validation: Mapping[str, Float[Array, " runs"]] | None
    state: Any

    def on_host(self) -> dict[str, Float[np.ndarray, "runs count"]]:
        """Returns the metrics of the call's steps, when they have been computed."""
        return {name: np.asarray(values)[:, : self.count] for name, values in self.metrics.items()}


class Record(abc.ABC):
    """Records runs that are trained together.

    A run whose loss is not finite has diverged: from the line that covers this step on, no line of it is written.

    Args:
      engine: of the runs.
      begin: what they begin with.
      checkpoints: of the runs.
      sinks: where lines go.
      labels: for each run, what every line of it begins with.
      diverged: for each run, the first step whose loss is not finite, 0 if there is none.
      shown: whether this process shows the progress, as only one of several does.

    Attributes:
      task: the task of all runs.
      checkpoints: of the runs.
      progress: the progress bar, to be closed at the end.
      diverged: as above, up to now.
      failure: what ends all runs once their lines are written, such as that the only one has diverged; None if nothing.
    """

    failure: TrainingError | None = None

    def __init__(
        self,
        engine: Engine,
        begin: Beginning,
        checkpoints: Checkpoints,
        sinks: Sinks,
        labels: Sequence[Row],
        diverged: Int[np.ndarray, " runs"],
        *,
        shown: bool = True,
    ):
        self.task, self.checkpoints, self.diverged = engine.task, checkpoints, diverged
        self.progress = Progress(begin.step, engine.schedule.steps, shown=shown)
        self._schedule, self._sinks, self._labels = engine.schedule, sinks, labels
        self._window = LogWindow(engine.schedule.epoch_steps, engine.config.log_every, begin.unfinished.window)

    @abc.abstractmethod
    def note_diverged(self, index: int, loss: float) -> None:
        """Is told that a run has diverged, whose first loss that is not finite is given."""

    @abc.abstractmethod
    def items(self, state: Any) -> Mapping[str, Any]:
        """Returns the items of a checkpoint."""

    def save(self, results: CallResults, validation: Sequence[Mapping[str, float]]) -> None:
        """Writes the checkpoint of an evaluation; `validation` are its metrics, of every run."""
        self.checkpoints.save(results.step, self.items(results.state), {})

    def save_unfinished(self, step: int, state: Any, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is complete.

        Args:
          step: steps of each run so far.
          state: after them.
          evaluation: whether the validation split is still to be evaluated after this step.
        """
        self.checkpoints.save(step, self.items(state), {}, Unfinished(self._window.as_json(), evaluation))
        self.checkpoints.wait()

    def write(self, results: CallResults) -> None:
        """Writes lines, progress and, after an evaluation, a checkpoint.

        Raises:
          TrainingError: if there is a failure.
          ConfigError: if the task has no such metric as its best one.
        """
        runs = len(self.diverged)  # without padding
        metrics = {name: values[:runs] for name, values in results.on_host().items()}
        evaluated = range(0 if results.validation is None else runs)
        validation = [metrics_of(self.task, of_run(results.validation or {}, index)) for index in evaluated]
        for row in validation:
            check_best_metric(self.task, row)
        # First, since it decides which lines are written.
        if metrics:
            self._note_divergence(metrics["loss"], results.step)
        if results.validation is not None:
            self._note_divergence(np.array([[row["loss"]] for row in validation]), results.step)
        lines, step = self._window.take_complete(metrics, results.step) if metrics else ({}, results.step)
        rows = [row for index in range(runs) for row in self._rows(index, lines, step, results, validation)]
        # By step, not by run: the order of lines must not depend on where calls end.
        self._sinks.write(sorted(rows, key=lambda row: (row["step"], row["split"] == "validation")))
        if self.failure is not None:
            raise self.failure
        self._show_progress(metrics, results, validation)
        if results.state is not None:
            self.save(results, validation)

    def _note_divergence(self, losses: Float[np.ndarray, "runs steps"], step: int) -> None:
        """Notes the runs that have a loss that is not finite among those of the last steps."""
        for index in np.flatnonzero((self.diverged == 0) & ~np.isfinite(losses).all(1)):
            finite = int(np.flatnonzero(~np.isfinite(losses[index]))[0])
            # Steps count from 1, and `step` is that of the last loss.
            self.diverged[index] = step - losses.shape[1] + finite + 1
            self.note_diverged(int(index), float(losses[index, finite]))

    def _rows(
        self, index: int, lines: Metrics, step: int, results: CallResults, validation: Sequence[Mapping[str, float]]
    ) -> Iterator[Row]:
        """Yields the lines of one run, up to the step at which it diverged."""
        metrics = {name: values[index] for name, values in lines.items()}
        rows = [
            metrics_of(self.task, row) for row in training_rows(metrics, step, results.epoch, self._window.log_every)
        ]
        rows = [finite_of_optimizer(row) for row in rows]
        if results.validation is not None:
            rows.append({"step": results.step, "epoch": results.epoch, "split": "validation", **validation[index]})
        for row in rows:
            if not self.diverged[index] or row["step"] < self.diverged[index]:
                yield self._labels[index] | row

    def _show_progress(self, metrics: Metrics, results: CallResults, validation: Sequence[Mapping[str, float]]) -> None:
        """Shows the mean of the runs that have not diverged, or of all if all have."""
        finite = np.flatnonzero(self.diverged == 0)
        shown = finite if finite.size else np.arange(len(self.diverged))
        if metrics:
            mean = {name: values[shown].mean(0) for name, values in of_task(metrics).items()}
            last = {name: values[-self._window.log_every :] for name, values in mean.items()}
            self.progress.advance(results.step, metrics_of(self.task, means(last)), mean)
        if results.validation is not None:
            rows = [validation[int(index)] for index in shown]
            self.progress.epoch(results.epoch, means({name: [row[name] for row in rows] for name in rows[0]}))

    def write_test(self, metrics: Mapping[str, Float[Array, " padded"]], params: Any) -> None:
        """Writes the metrics of the test split, with the task's own scores, of the runs that have not diverged.

        Args:
          metrics: of the test split, of each run and of the padding.
          params: the parameters of all runs, each leaf ``[padded, ...]``.
        """
        about = {"step": self._schedule.steps, "epoch": self._schedule.epochs, "split": "test"}
        params = jax.device_get(params)
        for index in map(int, np.flatnonzero(self.diverged == 0)):
            scores = scores_of(self.task, params_of_run(params, index), "test")
            test = metrics_of(self.task, of_run(metrics, index)) | scores
            self._sinks.write([self._labels[index] | about | test])


def of_run(metrics: Mapping[str, Float[Array, " runs"]], index: int) -> dict[str, float]:
    """Returns the metrics of one run as Python numbers."""
    return {name: float(np.asarray(values)[index]) for name, values in metrics.items()}


def training_rows(
    metrics: Mapping[str, Float[np.ndarray, " steps"]], step: int, epoch: int, log_every: int
) -> list[Row]:
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


def finite_of_optimizer(row: Mapping[str, Any]) -> Row:
    """Returns a line without what it has of the optimiser that is not finite, such as the norm of a last gradient."""
    return {name: value for name, value in row.items() if name not in OF_OPTIMIZER or math.isfinite(value)}
