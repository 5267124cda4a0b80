"""The best of a sweep's runs: their parameters while a group is trained, and their run directories afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rnnjax.config_group import to_dict
from rnnjax.metric_names import numbers
from rnnjax.tasks.task import Task
from rnnjax.training.directory.checkpoint import Checkpoints
from rnnjax.training.directory.model_file import model_file
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import computed_with
from rnnjax.training.state import as_items
from rnnjax.training.step import TrainState
from rnnjax.training.sweeps.grid import Group, Run

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

    def of_run(self, index: int) -> Any:
        """Returns the parameters of one run."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[index]), self.params)


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


def kept(group: Group, best: BestParams, results: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns which runs of a group, by their place in it, get a directory of their own.

    Args:
      group: the runs.
      best: of them.
      results: of them, in their order.
    """
    able = [index for index, run in enumerate(results) if run["diverged"] is None and np.isfinite(best.score[index])]
    return able if group.keep == "all" else sorted(able, key=lambda index: (-best.score[index], index))[:1]


class Ended(NamedTuple):
    """A run of a group at its end.

    Attributes:
      run: the run.
      result: as in the summary of its group.
      rows: its lines of `metrics.jsonl`.
      best: its parameters at the best evaluation, and the step of it.
      last: its parameters after the last step, and this step.
      times: seconds, steps per second and compile seconds, of the whole group.
      devices: that the run was computed on.
    """

    run: Run
    result: Mapping[str, Any]
    rows: Sequence[dict[str, Any]]
    best: tuple[int, Any]
    last: tuple[int, Any]
    times: Mapping[str, float]
    devices: int


def write_run(task: Task, ended: Ended, directory: RunDirectory) -> None:
    """Writes the directory of a run: what training writes, but for the optimiser's state and events.

    Args:
      task: the task.
      ended: the run.
      directory: its directory; what an earlier attempt left there is removed.

    Raises:
      CheckpointError: if its checkpoints cannot be written.
    """
    shutil.rmtree(directory.path, ignore_errors=True)
    config = to_dict(ended.run.config)
    directory.claim(config)
    directory.keep_model(model_file(task))
    directory.write_metrics(ended.rows)
    with open_checkpoints(directory, task, config) as checkpoints:
        for step, params in dict([ended.best, ended.last]).items():
            _save(checkpoints, ended.rows, step, params)
    directory.write_summary(
        {
            "final": ended.result["final"],
            "best": ended.result["best"],
            **ended.times,
            **computed_with(task, ended.devices),
            "sweep": {"run": ended.run.number, "seed": ended.run.seed, "values": ended.run.values},
        }
    )


def _save(checkpoints: Checkpoints, rows: Sequence[Mapping[str, Any]], step: int, params: Any) -> None:
    validation = (numbers(row) for row in rows if row["split"] == "validation" and row["step"] == step)
    checkpoints.save(step, {"params": params}, next(validation, {}))
