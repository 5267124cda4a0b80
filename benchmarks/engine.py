"""The training engine as benchmarks call it: nothing else here imports `rnnjax.training`, but for what a run leaves.

Only what a training step needs is imported, so that it runs where the packages of the commands are not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from rnnjax import Method
from rnnjax.config import TrainConfig
from rnnjax.parallel.mesh import batch_mesh, device_counts
from rnnjax.tasks.task import Task
from rnnjax.training.directory.choice import Choice
from rnnjax.training.engine import Engine, epoch_steps
from rnnjax.training.state import as_only_run, initial_train_state, place_state
from rnnjax.training.step_seconds import step_seconds, steps_call
from rnnjax.unrolling.auto import choosing


def steps_in_epoch(task: Task, config: TrainConfig) -> int:
    """Returns the number of training steps in an epoch."""
    return epoch_steps(task, config.batch_size)


def first_params(task: Task, config: TrainConfig, optimizer: optax.GradientTransformation) -> Any:
    """Returns the parameters that a run begins with."""
    return initial_train_state(task, optimizer)(config.seed).params


def epoch_call(task: Task, config: TrainConfig, method: Method | None, steps: int) -> Callable[[], Any]:
    """Returns a call that takes the first steps of an epoch, as the training command does; it returns their losses.

    Args:
      task: the task.
      config: the config.
      method: the way of unrolling; None for the one that training takes by itself.
      steps: how many.
    """
    devices = device_counts(config.parallel.batch, config.batch_size)[0]
    mesh = batch_mesh(str(devices), config.batch_size, config.parallel.layers, config.parallel.time)
    engine = Engine(task, config, mesh)
    order = engine.order(0)
    states = as_only_run(mesh, place_state(mesh, initial_train_state(task, engine.optimizer())(config.seed)))

    def call() -> Any:
        nonlocal states
        with choosing(lambda cell: method):
            states, metrics = engine.steps(states, order, 0, steps)
        return np.asarray(metrics["loss"])[0, :steps]  # of the only run, once it has been computed

    return call


def batch_call(
    task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, devices: int, steps: int
) -> Callable[[], Any]:
    """Returns a call that takes steps on the first batch, and returns their losses.

    Args:
      task: the task.
      config: the config.
      optimizer: the optimiser.
      devices: how many share the batch.
      steps: how many.
    """
    state = initial_train_state(task, optimizer)(config.seed)
    call = steps_call(task, config, optimizer, state, Choice(devices), steps)
    return lambda: np.asarray(call()["loss"])[0]


def fastest_devices(task: Task, config: TrainConfig, optimizer: optax.GradientTransformation) -> int:
    """Returns the number of devices that training takes by itself: the fastest of those that are likely."""
    choices = [Choice(count) for count in device_counts("auto", config.batch_size)]
    seconds = step_seconds(task, config, optimizer, choices)
    return min(seconds, key=seconds.__getitem__).devices
