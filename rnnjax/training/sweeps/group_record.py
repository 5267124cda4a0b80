"""Records a group of a sweep: the lines, results and best parameters of each of its runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from rnnjax.tasks.task import Task
from rnnjax.training.directory.checkpoint import Checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import best_metrics, final_metrics, score_of
from rnnjax.training.log_window import LogWindow
from rnnjax.training.progress import Progress
from rnnjax.training.record import CallResults, Record, Row
from rnnjax.training.sweeps.best import BestParams, items_of_runs
from rnnjax.training.sweeps.grid import Group

RowsByRun = Mapping[int, Sequence[dict[str, Any]]]  # lines of `metrics.jsonl` without the run, by its number

_log = logging.getLogger(__name__)


class GroupRecord(Record):
    """Records a group of runs in its directory, as progress, and as checkpoints; if one diverges, the others continue.

    Args:
      task: the task of all runs.
      progress: the progress bar.
      checkpoints: of the group.
      window: the training steps whose line is not complete yet.
      diverged: for each run, the first step whose loss is not finite, 0 if there is none.
      group: the runs.
      directory: of the group.
      best: the best parameters of each run so far; None where none are kept.
    """

    def __init__(
        self,
        task: Task,
        progress: Progress,
        checkpoints: Checkpoints,
        window: LogWindow,
        diverged: Int[np.ndarray, " runs"],
        group: Group,
        directory: RunDirectory,
        best: BestParams | None,
    ):
        super().__init__(task, progress, checkpoints, window, diverged)
        self.group, self.best, self.directory = group, best, directory

    def add(self, rows: list[Row]) -> None:
        """Writes lines of the group's `metrics.jsonl`."""
        self.directory.append_metrics(rows)

    def label(self, index: int) -> Row:
        return {"run": self.group.runs[index].number}

    def note_diverged(self, index: int, loss: float) -> None:
        run = self.group.runs[index]
        _log.warning("run %d (seed %d) diverged at step %d", run.number, run.seed, self.diverged[index])

    def items(self, state: Any) -> Mapping[str, Any]:
        return items_of_runs(state, self.diverged, self.best)

    def save(self, results: CallResults, validation: Sequence[Mapping[str, float]]) -> None:
        """Writes the checkpoint of an evaluation, and keeps the parameters of runs that it finds better than ever."""
        if self.best is not None:
            scores = np.array([score_of(self.task, row) for row in validation], np.float32)
            self.best.note(np.where(self.diverged == 0, scores, -np.inf), results.step, results.state.params)
        super().save(results, validation)

    def rows_by_run(self) -> RowsByRun:
        """Returns the lines of every run, by its number."""
        rows: dict[int, list[dict[str, Any]]] = {run.number: [] for run in self.group.runs}
        for row in self.directory.metrics():
            rows[row.pop("run")].append(row)
        return rows

    def results(self, rows: RowsByRun) -> list[dict[str, Any]]:
        """Returns the results of every run, in the form of a run's own summary, from `rows_by_run`."""
        return [
            {
                "run": run.number,
                "seed": run.seed,
                "values": run.values,
                "diverged": int(step) or None,
                "final": final_metrics(rows[run.number]),
                "best": best_metrics(rows[run.number], self.task),
            }
            for run, step in zip(self.group.runs, self.diverged)
        ]
