"""Records a group of a sweep: the lines, results and best parameters of each of its runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from rnnjax.training.directory.checkpoint import Checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import best_metrics, final_metrics, score_of
from rnnjax.training.engine import Engine
from rnnjax.training.record import Beginning, CallResults, Record
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.sweeps.best import BestParams, items_of_runs
from rnnjax.training.sweeps.grid import Group

Rows = Sequence[dict[str, Any]]  # lines of `metrics.jsonl`
RowsByRun = Mapping[int, Rows]  # without the run, by its number

_log = logging.getLogger(__name__)


class GroupRecord(Record):
    """Records a group of runs in its directory, as progress, and as checkpoints; if one diverges, the others continue.

    Args:
      engine: of the runs.
      begin: what they begin with.
      checkpoints: of the group.
      group: the runs.
      directory: of the group.
      diverged: for each run, the first step whose loss is not finite, 0 if there is none.
      best: the best parameters of each run so far; None where none are kept.
    """

    def __init__(
        self,
        engine: Engine,
        begin: Beginning,
        checkpoints: Checkpoints,
        group: Group,
        directory: RunDirectory,
        diverged: Int[np.ndarray, " runs"],
        best: BestParams | None,
    ):
        labels = [{"run": run.number} for run in group.runs]
        super().__init__(engine, begin, checkpoints, Sinks(directory.append_metrics, {}), labels, diverged)
        self.group, self.directory, self.best = group, directory, best

    def note_diverged(self, index: int, loss: float) -> None:
        run = self.group.runs[index]
        _log.warning("run %d (seed %d) diverged at step %d", run.number, run.seed, self.diverged[index])

    def items(self, state: Any) -> Mapping[str, Any]:
        return items_of_runs(state, self.diverged, self.best)

    def save(self, results: CallResults, validation: Sequence[Mapping[str, float]]) -> None:
        """Writes the checkpoint of an evaluation, and keeps the parameters of runs that it finds better than ever."""
        if self.best is not None:
            scores = np.array([score_of(self.task, row) for row in validation], np.float32)
            self.best.note(np.where(self.diverged == 0, scores, -np.inf), results.step, results.state.evaluated)
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
