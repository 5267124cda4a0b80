"""The training engine as benchmarks call it: nothing else here imports `rnnjax.training`, but for what a run leaves.

Only what a training step needs is imported, so that it runs where the packages of the commands are not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from rnnjax import Method
from rnnjax.config import TrainConfig
from rnnjax.optimizer import build_optimizer
from rnnjax.parallel.mesh import batch_mesh, device_counts, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.batches import Order, ResidentFeed, epoch_orders
from rnnjax.training.directory.choice import Choice
from rnnjax.training.engine import epoch_steps
from rnnjax.training.program import TrainProgram
from rnnjax.training.state import as_only_run, initial_train_state, place_state
from rnnjax.training.step_seconds import step_seconds
from rnnjax.unrolling.auto import choosing


def steps_in_epoch(task: Task, config: TrainConfig) -> int:
    """Returns the number of training steps in an epoch."""
    return epoch_steps(task, config.batch_size)


def first_params(task: Task, config: TrainConfig, optimizer: optax.GradientTransformation) -> Any:
    """Returns the parameters that a run begins with."""
    return initial_train_state(task, optimizer)(config.seed).params


def epoch_call(task: Task, config: TrainConfig, method: Method | None, steps: int) -> Callable[[], Any]:
    """Returns a call that takes the first steps of an epoch, as the training command does.

    Args:
      task: the task.
      config: the config.
      method: the way of unrolling; None for the one that training takes by itself.
      steps: how many.
    """
    epoch = steps_in_epoch(task, config)
    optimizer = build_optimizer(config.optimizer, epoch * config.epochs, epoch)
    devices = device_counts(config.parallel.batch, config.batch_size)[0]
    mesh = batch_mesh(str(devices), config.batch_size, config.parallel.layers, config.parallel.time)
    order = jax.tree.map(lambda leaf: leaf[:, :steps], epoch_orders(task, [config.seed], config.batch_size, mesh)(0))
    return _call(task, config, optimizer, mesh, order, method)


def batch_call(
    task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, devices: int, steps: int
) -> Callable[[], Any]:
    """Returns a call that takes steps on the first batch.

    Args:
      task: the task.
      config: the config.
      optimizer: the optimiser.
      devices: how many share the batch.
      steps: how many.
    """
    mesh = batch_mesh(str(devices), config.batch_size)
    rows = np.minimum(np.arange(filled_batch(mesh, config.batch_size)), config.batch_size - 1)
    return _call(task, config, optimizer, mesh, Order(np.tile(rows, (1, steps, 1)), None), None)


def _call(
    task: Task,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    order: Order,
    method: Method | None,
) -> Callable[[], Any]:
    """Returns a call of one program, of an order's steps from the state that the last call left; it returns losses."""
    feed = ResidentFeed(mesh, task.data.splits["train"], config.batch_size)
    program = TrainProgram(task, lambda _: optimizer, mesh, feed, map=config.parallel.map)
    states = as_only_run(mesh, place_state(mesh, initial_train_state(task, optimizer)(config.seed)))

    def call() -> Any:
        nonlocal states
        with choosing(lambda cell: method):
            states, metrics = program(states, order)
        return np.asarray(metrics["loss"])[0]  # of the only run, once it has been computed

    return call


def fastest_devices(task: Task, config: TrainConfig, optimizer: optax.GradientTransformation) -> int:
    """Returns the number of devices that training takes by itself: the fastest of those that are likely."""
    choices = [Choice(count) for count in device_counts("auto", config.batch_size)]
    seconds = step_seconds(task, config, optimizer, choices)
    return min(seconds, key=seconds.__getitem__).devices
