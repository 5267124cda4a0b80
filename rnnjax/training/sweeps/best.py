"""The best of a sweep's runs: their parameters while a group is trained, and their run directories afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rnnjax.config_group import to_dict
from rnnjax.metric_names import numbers
from rnnjax.tasks.task import Task
from rnnjax.training.directory.model_file import model_file
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.state import as_items
from rnnjax.training.step import TrainState
from rnnjax.training.sweeps.grid import Run

KEPT = "runs"  # folder in that of a group


class BestParams(NamedTuple):
    """The parameters of every run of a group at its best evaluation so far; `note` changes the arrays.

    Attributes:
      params: of all runs, each leaf ``[runs, ...]``.
      score: of each run's best evaluation, the higher the better; -inf where there is none.
      step: of that evaluation.
    """

    params: Any
    score: Float[np.ndarray, " runs"]
    step: Int[np.ndarray, " runs"]

    def note(self, scores: Float[np.ndarray, " runs"], step: int, params: Any) -> None:
        """Takes the parameters of the runs whose scores are better than all before; a NaN never is.

        Args:
          scores: of an evaluation.
          step: of it.
          params: of all runs.
        """
        better = scores > self.score
        if better.any():
            self.score[better], self.step[better] = scores[better], step
            for best, found in zip(jax.tree.leaves(self.params), jax.tree.leaves(params)):
                best[better] = np.asarray(found)[better]

    def copy(self) -> BestParams:
        """Returns a copy, which stays as it is."""
        return jax.tree.map(np.array, self)


def no_best_params(params: Any) -> BestParams:
    """Returns what is known before the first evaluation of runs with these parameters, each leaf ``[runs, ...]``."""
    runs = len(jax.tree.leaves(params)[0])
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    return BestParams(empty, np.full(runs, -np.inf, np.float32), np.zeros(runs, np.int32))


def items_of_runs(states: TrainState, diverged: Int[np.ndarray, " runs"], best: BestParams | None) -> dict[str, Any]:
    """Returns the states of runs, where each diverged, and their best parameters as the items of a checkpoint."""
    items = as_items(states)
    # Copies, since they are written in the background while these arrays change.
    noted = {"diverged": diverged.copy(), "best": None if best is None else best.copy()}
    return items | {"state": {"states": items["state"], **noted}}


def kept(keep: str, best: BestParams, diverged: Int[np.ndarray, " runs"]) -> list[int]:
    """Returns which runs of a group, by their place in it, get a directory of their own.

    Args:
      keep: "all" or "best".
      best: the best parameters of the runs.
      diverged: for each run, the step at which it diverged, 0 if it has not.
    """
    able = np.flatnonzero((diverged == 0) & np.isfinite(best.score)).tolist()
    return able if keep == "all" else sorted(able, key=lambda index: (-best.score[index], index))[:1]


def write_run(
    task: Task, run: Run, rows: Sequence[dict[str, Any]], params: Mapping[int, Any], summary: dict[str, Any], path: Path
) -> None:
    """Writes the directory of a run: what training writes, but for the optimiser's state and events.

    Args:
      task: the task.
      run: the run.
      rows: its lines of `metrics.jsonl`.
      params: its parameters, by the steps after which they are so.
      summary: of the run; which run of the sweep it is is added.
      path: of its directory; what an earlier attempt left there is removed.

    Raises:
      CheckpointError: if its checkpoints cannot be written.
    """
    shutil.rmtree(path, ignore_errors=True)
    directory, config = RunDirectory(path), to_dict(run.config)
    directory.claim(config)
    directory.keep_model(model_file(task))
    directory.write_metrics(rows)
    validation = {row["step"]: numbers(row) for row in rows if row["split"] == "validation"}
    with open_checkpoints(directory, task, config) as checkpoints:
        for step, params_there in params.items():
            checkpoints.save(step, {"params": params_there}, validation.get(step, {}))
    directory.write_summary(summary | {"sweep": {"run": run.number, "seed": run.seed, "values": run.values}})
