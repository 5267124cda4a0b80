"""Evaluates a run that was trained before."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze, from_dict
from rnnjax.errors import CheckpointError, ConfigError
from rnnjax.optimizer import build_optimizer
from rnnjax.parallel.mesh import batch_mesh
from rnnjax.tasks import build_task, task_module
from rnnjax.tasks.task import Task
from rnnjax.training.loop import open_checkpoints
from rnnjax.training.program import place_state
from rnnjax.training.record import means
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.split_evaluation import evaluator, scores
from rnnjax.training.state import TrainState, initial_train_state, require_room
from rnnjax.training.trust import require_trust
from rnnjax.unrolling.auto import using
from rnnjax.unrolling.known import Methods


def evaluate_run(
    directory: str, split: str, checkpoint: str, data_path: str | None, *, trusted: bool = False
) -> dict[str, Any]:
    """Returns the metrics of a run's best or last checkpoint on a split, with its step.

    Args:
      directory: run directory.
      split: "train", "validation" or "test".
      checkpoint: "best" or "last".
      data_path: if given, a folder to read the data from in place of the run's own.
      trusted: whether code outside rnnjax that the run's config names may be executed.

    Raises:
      ConfigError: if there is no run there, or it names such code.
      DataError, CheckpointError: if its data or checkpoints cannot be read.
    """
    run = RunDirectory(directory)
    config = run_config(run, data_path, trusted=trusted)
    task = build_task(config)
    mesh = batch_mesh("auto", config.batch_size)  # the devices here need not be those of the training
    step, state = restore(run, task, config, mesh, checkpoint)
    resident = config.data.feed == "device"
    evaluate = evaluator(task, mesh, split, config.batch_size, resident=resident, map=config.parallel.map)
    with using(methods_of_run(run)):
        metrics = means(evaluate(state.params))
        metrics = task.complete(metrics) | scores(task, state.params, split)
    return {"step": step, "checkpoint": checkpoint, "split": split, **metrics, "data": task.data.source}


def methods_of_run(run: RunDirectory) -> Methods:
    """Returns the methods by which a run was computed, so that what is computed with it later is rounded as it was."""
    choice = run.choice()
    return () if choice is None else choice.methods


def restored_params(
    directory: str, checkpoint: str, data_path: str | None, *, trusted: bool = False
) -> tuple[Task, Any, RunDirectory]:
    """Returns the task of a run, the parameters of its best or last checkpoint on the host, and its directory.

    Args:
      directory: run directory.
      checkpoint: "best" or "last".
      data_path: if given, a folder to read the data from in place of the run's own.
      trusted: whether code outside rnnjax that the run's config names may be executed.

    Raises:
      ConfigError, DataError, CheckpointError: as `evaluate_run`.
    """
    run = RunDirectory(directory)
    config = run_config(run, data_path, trusted=trusted)
    task = build_task(config)
    _, state = restore(run, task, config, batch_mesh("1", config.batch_size), checkpoint)
    return task, jax.device_get(state.params), run


def run_config(run: RunDirectory, data_path: str | None, *, trusted: bool = False) -> TrainConfig:
    """Returns the config of a run, with another data folder if one is given.

    Raises:
      ConfigError: if the directory holds no run, its task or one of its fields is unknown, or it names code outside
        rnnjax and is not trusted.
    """
    values = run.config()
    if not isinstance(values.get("task"), str):
        raise ConfigError(f"{run.path / 'config.json'} is not a run's config; choose a directory that training made")
    require_trust(values, run.path / "config.json", trusted=trusted)
    config = from_dict(task_module(values["task"]).Config, values)
    if data_path is not None:
        config.data.path = data_path
    return freeze(config)


def restore(run: RunDirectory, task: Task, config: TrainConfig, mesh: Mesh, checkpoint: str) -> tuple[int, TrainState]:
    """Restores the best or the last checkpoint of a run.

    Args:
      run: the run directory.
      task: the task.
      config: the config.
      mesh: the devices.
      checkpoint: "best" or "last".

    Returns:
      the step of the checkpoint, and its state.

    Raises:
      CheckpointError: if there is no complete checkpoint.
      DataError: if the task has other data than the run was trained on, and the checkpoint does not fit it.
    """
    if not run.checkpoints.is_dir():
        raise CheckpointError(f"{run.path} has no checkpoints yet; train first")
    steps = config.optimizer.warmup_steps + 1  # any number does: the state has the same structure for all
    optimizer = build_optimizer(config.optimizer, steps)
    require_room(task, optimizer)
    like = place_state(mesh, initial_train_state(task, optimizer)(config.seed))
    with open_checkpoints(run, task, run.config(), read_only=True) as checkpoints:
        restored = checkpoints.restore_best(like) if checkpoint == "best" else checkpoints.restore_last(like)
    if restored is None:
        raise CheckpointError(f"{run.checkpoints} holds no checkpoint; train first")
    return restored
