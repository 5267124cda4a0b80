"""The checkpoints of a run, opened for writing or for reading."""

from __future__ import annotations

from typing import Any

from rnnjax.tasks.task import Task
from rnnjax.training.directory.checkpoint import Checkpoints, Origin
from rnnjax.training.directory.run_directory import RunDirectory, config_digest


def open_checkpoints(run: RunDirectory, task: Task, config: dict[str, Any], *, read_only: bool = False) -> Checkpoints:
    """Opens the checkpoints of a run, of which the best is that with the best value of the task's metric.

    Args:
      run: the run directory.
      task: its task.
      config: its config, as JSON can hold it.
      read_only: whether nothing may be written.

    Returns:
      the checkpoints, as a context manager.
    """
    origin = Origin(config_digest(config), task.data.checksum or None)  # none of a task without data
    return Checkpoints(
        run.checkpoints,
        origin,
        metric=task.best_metric,
        higher_is_better=task.higher_is_better,
        read_only=read_only,
    )
