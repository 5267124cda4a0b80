"""Opens a run that was trained before: its config, its task and the parameters in a checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding, SingleDeviceSharding

from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze, from_dict
from rnnjax.errors import CheckpointError, ConfigError
from rnnjax.memory import require_room_for
from rnnjax.tasks import open_task, task_module
from rnnjax.tasks.task import Kept, Task
from rnnjax.training.directory.finding import find_run
from rnnjax.training.directory.model_file import shapes
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.trust import require_trust
from rnnjax.unrolling.known import Methods


def methods_of_run(run: RunDirectory) -> Methods:
    """Returns the methods by which a run was computed, so that what is computed with it later is rounded as it was."""
    choice = run.choice()
    return () if choice is None else choice.methods


class OpenedRun(NamedTuple):
    """A run that was opened without its data.

    Attributes:
      directory: of the run.
      config: its config.
      task: its task, without data.
      step: of the checkpoint.
      params: the parameters in the checkpoint, on the first device.
    """

    directory: RunDirectory
    config: TrainConfig
    task: Task
    step: int
    params: Any


def open_run(directory: str, checkpoint: str, data_path: str | None = None, *, trusted: bool = False) -> OpenedRun:
    """Opens a run: nothing but what is in its directory is read, and nothing is written there.

    Args:
      directory: run directory, or that of a sweep with the name of a run behind it.
      checkpoint: "best" or "last".
      data_path: where the data is of a task that cannot be opened without.
      trusted: whether code outside rnnjax that the run's config names may be executed.

    Raises:
      ConfigError: if there is no run there, or it names such code.
      CheckpointError: if its checkpoints cannot be read.
    """
    run = find_run(directory)
    config = run_config(run, data_path, trusted=trusted)
    task = open_task(config, kept_of(run))
    step, params = restore_params(run, task, checkpoint, SingleDeviceSharding(jax.local_devices()[0]))
    return OpenedRun(run, config, task, step, params)


def kept_of(run: RunDirectory) -> Kept:
    """Returns what a run has kept of its data.

    Raises:
      CheckpointError: if it has no checkpoints yet.
      ConfigError: as `RunDirectory.model`.
    """
    if not run.checkpoints.is_dir():
        raise CheckpointError(f"{run.path} has no checkpoints yet; train first")
    return run.model().kept


def run_config(run: RunDirectory, data_path: str | None, *, trusted: bool = False, trains: bool = False) -> TrainConfig:
    """Returns the config of a run, with another data folder if one is given.

    Args:
      run: the run directory.
      data_path: of the other data.
      trusted: whether code outside rnnjax that the config names may be executed.
      trains: whether the run is gone on with, as for `require_trust`.

    Raises:
      ConfigError: if the directory holds no run, its task or one of its fields is unknown, or it names code outside
        rnnjax and is not trusted.
    """
    values = run.config()
    if not isinstance(values.get("task"), str):
        raise ConfigError(f"{run.path / 'config.json'} is not a run's config; choose a directory that training made")
    require_trust(values, run.path / "config.json", trusted=trusted, trains=trains)
    config = from_dict(task_module(values["task"]).Config, values)
    if data_path is not None:
        config.data.read_other(data_path)
    return freeze(config)


def restore_params(run: RunDirectory, task: Task, checkpoint: str, sharding: Sharding) -> tuple[int, Any]:
    """Restores the parameters in the best or the last checkpoint of a run.

    Args:
      run: the run directory.
      task: the task, whose parameters have the same structure.
      checkpoint: "best" or "last".
      sharding: where each parameter is placed.

    Returns:
      the step of the checkpoint, and its parameters.

    Raises:
      CheckpointError: if there is no complete checkpoint.
      DataError: if the task has other data than the run was trained on, and the checkpoint does not fit it.
    """
    require_room_for(lambda: task.init(jax.random.key(0)), "the parameters")
    like = {
        "params": jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes(task)
        )
    }
    with open_checkpoints(run, task, run.config(), read_only=True) as checkpoints:
        step, items = checkpoints.restore(checkpoint, like)
    return step, items["params"]
