"""Records a run by itself: in its directory and the sinks that follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from rnnjax.errors import TrainingError
from rnnjax.plots import plot_curves
from rnnjax.training.directory.checkpoint import Checkpoints
from rnnjax.training.directory.histograms import append_histograms, histogram_row
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.engine import Engine
from rnnjax.training.record import Beginning, CallResults, Record
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.state import as_items, params_of_run


class RunRecord(Record):
    """Records a run in its directory and other sinks, as progress, and as checkpoints; if it diverges, it has failed.

    Args:
      engine: of the run.
      begin: what it begins with.
      checkpoints: of the run.
      run: the run directory.
      sinks: where lines go, `metrics.jsonl` first.
    """

    def __init__(self, engine: Engine, begin: Beginning, checkpoints: Checkpoints, run: RunDirectory, sinks: Sinks):
        super().__init__(engine, begin, checkpoints, sinks, [{}], np.zeros(1, np.int32), shown=run.writes)
        self._run, self._histograms = run, engine.config.histograms

    def note_diverged(self, index: int, loss: float) -> None:
        self.failure = TrainingError(
            f"the loss of step {self.diverged[index]} is {loss}: lower optimizer.learning_rate, or set "
            "optimizer.clip_norm"
        )

    def items(self, state: Any) -> Mapping[str, Any]:
        return as_items(state)

    def save(self, results: CallResults, validation: Sequence[Mapping[str, float]]) -> None:
        """Writes the checkpoint of an evaluation, whose metrics say which is the best; and histograms, if wanted."""
        if self._histograms:
            self._add_histograms(results)
        self.checkpoints.save(results.step, self.items(results.state), dict(validation[0]))

    def _add_histograms(self, results: CallResults) -> None:
        row = histogram_row(results.state.params, results.step, results.epoch)
        if self._run.writes:
            append_histograms(self._run.path, row)
            self._sinks.follow([row])

    def write_test(self, metrics: Mapping[str, Float[Array, " padded"]], params: Any) -> None:
        """Writes the metrics of the test split, with the task's own scores, and draws the plots of the run."""
        if not self._run.writes:
            return
        super().write_test(metrics, params)
        plot_curves(self._run.metrics(), self._run.plots)
        self.task.plots(params_of_run(params, 0), self._run.plots)
        self._sinks.figures(self._run.plots)
