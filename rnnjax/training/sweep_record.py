"""Records a group of runs that are trained together: the lines, results and best parameters of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rnnjax.metric_names import of_task
from rnnjax.tasks.task import Task
from rnnjax.training.calls import TrainingSchedule
from rnnjax.training.checkpoint import Checkpoints, Unfinished
from rnnjax.training.grid import Group
from rnnjax.training.log_window import LogWindow, Metrics
from rnnjax.training.progress import Progress
from rnnjax.training.record import (
    CallResults,
    finite_of_optimizer,
    finite_steps,
    means,
    training_rows,
)
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.state import TrainState
from rnnjax.training.summary import best_metrics, last_metrics
from rnnjax.training.sweep_best import BestParams, items_of_runs, score_of

_log = logging.getLogger(__name__)


class GroupRecord(NamedTuple):
    """Records a group of runs in its directory, as progress, and as checkpoints.

    A run whose loss is not finite has diverged: from the line that covers this step on, no line of it is written,
    while the other runs continue.

    Attributes:
      task: the task of all runs.
      group: the runs.
      directory: of the group.
      progress: the progress bar.
      checkpoints: of the group.
      diverged: for each run, the first step whose loss is not finite, 0 if there is none.
      best: the best parameters of each run so far; None where none are kept.
      window: the training steps whose line is not complete yet.
    """

    task: Task
    group: Group
    directory: RunDirectory
    progress: Progress
    checkpoints: Checkpoints
    diverged: Int[np.ndarray, " runs"]
    best: BestParams | None
    window: LogWindow

    def write(self, results: CallResults) -> None:
        """Writes the metrics of all runs, progress and, at the end of an epoch, a checkpoint."""
        runs = range(len(self.diverged))
        metrics = {name: values[: len(runs)] for name, values in results.on_host().items()}  # without padding
        # First, since it decides which lines are written below.
        self._note_divergence(metrics, results)
        lines, step = self.window.take_complete(metrics, results.step) if metrics else ({}, results.step)
        rows = [row for index in runs for row in self._rows(index, lines, step, results)]
        # By step, not by run: the order of lines must not depend on where calls end.
        self.directory.append_metrics(sorted(rows, key=lambda row: (row["step"], row["split"] == "validation")))
        self._show_progress(metrics, results)
        if results.state is not None:
            self._note_best(results)
            self.save(results.step, results.state)

    def _note_best(self, results: CallResults) -> None:
        """Takes the parameters of the runs that an evaluation has found better than ever."""
        if self.best is None or results.validation is None:
            return
        rows = [self.task.metrics(_of_run(results.validation, index)) for index in range(len(self.diverged))]
        scores = np.array([score_of(self.task, row) for row in rows], np.float32)
        self.best.note(np.where(self.diverged == 0, scores, -np.inf), results.step, results.state.params)

    def _show_progress(self, metrics: Metrics, results: CallResults) -> None:
        shown = self._shown_runs()
        if metrics:
            mean = {name: values[shown].mean(0) for name, values in of_task(metrics).items()}
            last = {name: values[-1] for name, values in mean.items()}
            self.progress.advance(results.step, means(last), mean)
        if results.validation is not None:
            validation = {name: values[shown] for name, values in _on_host(results.validation).items()}
            self.progress.epoch(results.epoch, self.task.metrics(means(validation)))

    def _note_divergence(self, metrics: Metrics, results: CallResults) -> None:
        """Notes the runs whose loss was not finite in a call, or in the evaluation after it."""
        for index in range(len(self.diverged)):
            if metrics:
                self._note_first(index, metrics["loss"][index], results.step)
            if results.validation is not None:
                losses = _on_host(results.validation)["loss"]
                self._note_first(index, losses[index : index + 1], results.step)

    def _note_first(self, index: int, losses: np.ndarray, step: int) -> None:
        finite = finite_steps(losses)
        if finite < len(losses) and not self.diverged[index]:
            # Steps count from 1, and `step` is that of the last loss.
            self.diverged[index] = step - len(losses) + finite + 1
            run = self.group.runs[index]
            _log.warning("run %d (seed %d) diverged at step %d", run.number, run.seed, self.diverged[index])

    def _rows(self, index: int, lines: Metrics, step: int, results: CallResults) -> Iterator[dict[str, Any]]:
        """Yields the lines of one run, up to the step at which it diverged."""
        run, config = self.group.runs[index], self.group.config
        metrics = {name: values[index] for name, values in lines.items()}
        rows = [self.task.metrics(row) for row in training_rows(metrics, step, results.epoch, config.log_every)]
        rows = [finite_of_optimizer(row) for row in rows]
        if results.validation is not None:
            about = {"step": results.step, "epoch": results.epoch, "split": "validation"}
            rows.append(about | self.task.metrics(_of_run(results.validation, index)))
        for row in rows:
            if not self.diverged[index] or row["step"] < self.diverged[index]:
                yield {"run": run.number, **row}

    def _shown_runs(self) -> np.ndarray:
        """Returns the runs whose mean progress shows: those that have not diverged, or all if all have."""
        finite = np.flatnonzero(self.diverged == 0)
        return finite if finite.size else np.arange(len(self.diverged))

    def save(self, step: int, states: TrainState) -> None:
        """Writes a checkpoint."""
        self.checkpoints.save(step, items_of_runs(states, self.diverged, self.best), {})

    def save_unfinished(self, step: int, states: TrainState, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is complete.

        Args:
          step: steps of each run so far.
          states: after them.
          evaluation: whether the validation split is still to be evaluated after this step.
        """
        items = items_of_runs(states, self.diverged, self.best)
        self.checkpoints.save(step, items, {}, Unfinished(self.window.as_json(), evaluation))
        self.checkpoints.wait()

    def write_test(
        self, schedule: TrainingSchedule, metrics: Mapping[str, Float[Array, " padded"]], params: Any
    ) -> None:
        """Writes the metrics of the test split, with the task's own scores.

        Args:
          schedule: of each run.
          metrics: of the test split, of each run and of the padding.
          params: the parameters of all runs, each leaf ``[padded, ...]``.
        """
        about = {"step": schedule.steps, "epoch": schedule.epochs, "split": "test"}
        for index, run in enumerate(self.group.runs):
            if self.diverged[index]:
                continue
            test = self.task.metrics(_of_run(metrics, index))
            # The padding is behind the runs, so that a run's number is its row.
            params_of_run = jax.tree.map(lambda leaf, index=index: leaf[index], params)
            test |= self.task.scores(jax.device_get(params_of_run), "test")
            self.directory.append_metrics([{"run": run.number, **about, **test}])

    def rows_by_run(self) -> dict[int, list[dict[str, Any]]]:
        """Returns the lines of every run, by its number."""
        rows: dict[int, list[dict[str, Any]]] = {run.number: [] for run in self.group.runs}
        for row in self.directory.metrics():
            rows[row.pop("run")].append(row)
        return rows

    def results(self) -> list[dict[str, Any]]:
        """Returns the results of every run, in the form of a run's own summary."""
        rows = self.rows_by_run()
        return [
            {
                "run": run.number,
                "seed": run.seed,
                "values": run.values,
                "diverged": int(step) or None,
                "final": {split: last_metrics(rows[run.number], split) for split in _splits(rows[run.number])},
                "best": best_metrics(rows[run.number], self.task),
            }
            for run, step in zip(self.group.runs, self.diverged)
        ]


def _splits(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["split"] for row in rows))


def _on_host(metrics: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in metrics.items()}


def _of_run(metrics: Mapping[str, Array], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in _on_host(metrics).items()}
