"""Measures a training step by each choice of devices and methods, and tunes the recurrences in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from rnnjax.config import TrainConfig
from rnnjax.parallel.mesh import batch_mesh, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.batches import Order, ResidentFeed
from rnnjax.training.directory.choice import Choice
from rnnjax.training.program import TrainProgram, by_bucket
from rnnjax.training.state import as_only_run, initial_train_state, place_state
from rnnjax.training.step import TrainState
from rnnjax.unrolling.auto import Auto, recurrences_in, using
from rnnjax.unrolling.known import Methods, kept_choice, recurrence_key
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.tuning import distinct, keep_tuned, tune_recurrence

_STEPS = 8  # in a measured call
_SECONDS = 0.5  # at least, for measuring each choice
_MOST_RECURRENCES = 4  # that are tuned; a task with many bucket widths has more


def step_seconds(
    task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, choices: Sequence[Choice]
) -> dict[Choice, float]:
    """Returns the seconds that a training step takes by each choice, measured in turns.

    Args:
      task: the task.
      config: the config.
      optimizer: the optimiser.
      choices: the choices.
    """
    state = initial_train_state(task, optimizer)(config.seed)
    calls = {choice: steps_call(task, config, optimizer, state, choice, _STEPS) for choice in choices}
    times: dict[Choice, list[float]] = {choice: [] for choice in choices}
    for call in calls.values():
        call()  # compiles
    while min(map(sum, times.values())) < _SECONDS:
        for choice, call in calls.items():
            started = time.perf_counter()
            call()
            times[choice].append(time.perf_counter() - started)
    return {choice: statistics.median(seconds) / _STEPS for choice, seconds in times.items()}


def steps_call(
    task: Task,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    choice: Choice,
    steps: int,
) -> Callable[[], Any]:
    """Returns a function that takes some training steps, all on the first batch, and returns their metrics.

    Args:
      task: the task.
      config: the config.
      optimizer: the optimiser.
      state: the state before the first step; it is left as it is, and each call goes on from the one before.
      choice: the number of devices, and the methods.
      steps: number of steps in a call.
    """
    mesh = batch_mesh(str(choice.devices), config.batch_size)
    batch = {name: values[: config.batch_size] for name, values in task.data.splits["train"].items()}
    feed = ResidentFeed(mesh, batch, config.batch_size)
    program = TrainProgram(task, lambda _: optimizer, mesh, feed, map=config.parallel.map)
    buckets = None if task.buckets is None else np.full((1, steps), len(task.buckets.widths) // 2)
    # Filled up as training's are, with examples of weight zero.
    rows = np.minimum(np.arange(filled_batch(mesh, config.batch_size)), config.batch_size - 1)
    order = Order(np.tile(rows, (1, steps, 1)), buckets)
    states = as_only_run(mesh, place_state(mesh, state))

    def call() -> Any:
        nonlocal states
        with using(choice.methods):
            states, metrics = program(states, order)
        return jax.block_until_ready(metrics)

    return call


def tuned_methods(task: Task, config: TrainConfig, devices: int) -> Methods:
    """Returns the methods that are faster than the rule's in the recurrences of a step on that many devices.

    Each recurrence is measured by itself, unless it was before; at most four of them are.
    """
    methods = {}
    for recurrence in distinct(recurrences_in_step(task, config, devices))[:_MOST_RECURRENCES]:
        method = _fastest(recurrence)
        if method != Auto(methods=()).method_for(recurrence, jax.default_backend()):
            methods[recurrence_key(recurrence)] = method
    return tuple(methods.items())


def _fastest(recurrence: Recurrence) -> Method:
    known = kept_choice(recurrence, gradient=True)
    if known is not None:
        return known
    tuned = tune_recurrence(recurrence, ("gradient",))
    keep_tuned([tuned])
    return tuned.gradient or Auto(methods=()).method_for(recurrence, jax.default_backend())


def recurrences_in_step(task: Task, config: TrainConfig, devices: int) -> list[Recurrence]:
    """Returns, as shapes, the recurrences that each of that many devices computes in a training step."""
    size = -(-config.batch_size // devices)

    def part(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype))

    def values(params: Any, carry: Any, batch: Any, bucket: Any, key: Any) -> Any:
        run = by_bucket(task.buckets, lambda carry, batch: task.loss(params, carry, batch, key))
        return run(carry, batch, bucket)

    batch, carry = jax.tree.map(part, (dict(task.data.splits["train"]), task.carry))
    key, bucket = jax.random.key(0), jax.ShapeDtypeStruct((), np.int32)
    return recurrences_in(values, jax.eval_shape(task.init, key), carry, batch, bucket, key)
