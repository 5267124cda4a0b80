"""How a run is divided into epochs, calls and batches, and the order of examples in these."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.parallel.mesh import filled_batch
from rnnjax.tasks.task import Task

_MOST_STEPS = 2**31  # steps are counted in 32 bits


class TrainingSchedule(NamedTuple):
    """How a run is divided into epochs and calls.

    Attributes:
      epoch_steps: steps in an epoch.
      epochs: number of epochs.
      call_steps: most steps in a call.
      evaluate_every: epochs from one evaluation to the next.
    """

    epoch_steps: int
    epochs: int
    call_steps: int
    evaluate_every: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epoch_steps * self.epochs

    def evaluates_at(self, step: int) -> bool:
        """Says whether the validation split is evaluated after `step` steps of the run."""
        epoch, rest = divmod(step, self.epoch_steps)
        return step > 0 and rest == 0 and (epoch % self.evaluate_every == 0 or epoch == self.epochs)

    def most_steps_after(self, step: int) -> int:
        """Returns the most steps that the call after `step` steps may take: it must not go beyond the epoch."""
        return min(self.call_steps, self.epoch_steps - step % self.epoch_steps)


def training_schedule(task: Task, config: TrainConfig) -> TrainingSchedule:
    """Returns the numbers of epochs and steps of a run.

    Raises:
      ConfigError: if there are fewer examples than one batch takes, or more steps than can be counted.
    """
    steps = epoch_steps(task, config.batch_size)
    require(
        steps * config.epochs < _MOST_STEPS,
        f"a run has at most {_MOST_STEPS - 1} steps, and {config.epochs} epochs of {steps} are more; lower epochs",
    )
    return TrainingSchedule(steps, config.epochs, min(config.steps_per_call or steps, steps), config.evaluate_every)


class Order(NamedTuple):
    """The examples of some batches, and if there are buckets, the bucket of each batch.

    Every run that is trained has batches of its own; those of an evaluation are the same for all runs, and have no axis
    of runs.
    """

    rows: Int[Array | np.ndarray, "*runs steps B"]
    bucket: Int[Array | np.ndarray, "*runs steps"] | None


def epoch_steps(task: Task, batch_size: int) -> int:
    """Returns the number of training steps in an epoch.

    Raises:
      ConfigError: if there are fewer examples, in a bucket or in total, than a batch has.
    """
    groups = example_groups(task, "train")
    for group in groups:
        where = "" if task.buckets is None else " in a bucket"
        fits = batch_size <= len(group)
        require(fits, f"batch_size is {batch_size}, but there are {len(group)} training examples{where}; lower it")
    return sum(len(group) // batch_size for group in groups)


def example_groups(task: Task, split: str) -> list[Int[np.ndarray, " n"]]:
    """Returns the groups of examples of a split that can be in the same batch: those of each bucket, or all."""
    if task.buckets is None:
        return [np.arange(task.examples(split))]
    return [np.flatnonzero(task.buckets.of[split] == bucket) for bucket in range(len(task.buckets.widths))]


def epoch_orders(mesh: Mesh, task: Task, seeds: Sequence[int], batch_size: int) -> Callable[[int], Order]:
    """Returns a function from the epoch to the batches of every run, shuffled unless the task is ordered.

    Examples that do not fill a batch are left out. Batches are padded to divide over the devices; a feed gives the
    padding weight zero.

    Args:
      mesh: the devices.
      task: the task.
      seeds: of every run; a run has the same batches whichever others there are.
      batch_size: examples in a batch.
    """
    groups = example_groups(task, "train")
    padding = filled_batch(mesh, batch_size) - batch_size

    def full_batches(rows: Array) -> Array:
        rows = rows[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
        # [steps, B], filled up with examples of weight zero.
        return jnp.pad(rows, ((0, 0), (0, padding)), mode="edge") if padding else rows

    def of_run(seed: Array, epoch: Array) -> Order:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
        if task.ordered:
            return Order(full_batches(jnp.asarray(groups[0])), None)
        if task.buckets is None:
            return Order(full_batches(jax.random.permutation(key, len(groups[0]))), None)
        # One for each bucket, and the last one for the order of the batches of all buckets.
        keys = jax.random.split(key, len(groups) + 1)
        rows = [full_batches(jax.random.permutation(k, jnp.asarray(group))) for k, group in zip(keys, groups)]
        bucket = np.repeat(np.arange(len(groups)), [len(part) for part in rows])
        # Mixed, so that a run does not train on one length for long.
        mixed = jax.random.permutation(keys[-1], len(bucket))
        return Order(jnp.concatenate(rows)[mixed], jnp.asarray(bucket)[mixed])

    @jax.jit
    def of_runs(seeds: Array, epoch: Array) -> Order:
        return jax.lax.map(lambda seed: of_run(seed, epoch), seeds)

    seed_array = np.array(seeds, np.uint32)
    # The same object for all calls of an epoch, as `CallInputs` expects.
    return functools.lru_cache(1)(lambda epoch: of_runs(seed_array, epoch))


def left_out(task: Task, batch_size: int) -> int:
    """Returns how many training examples each epoch leaves out because they do not fill a batch."""
    return sum(len(group) % batch_size for group in example_groups(task, "train"))


def evaluation_order(task: Task, split: str, batch_size: int) -> tuple[Order, Float[np.ndarray, "steps B"]]:
    """Returns batches with every example of a split, and the weights of their examples: 0 for padding.

    Args:
      task: the task.
      split: name of the split.
      batch_size: examples in a batch.
    """
    rows, weights, buckets = [], [], []
    for number, group in enumerate(example_groups(task, split)):
        steps = math.ceil(len(group) / batch_size)
        positions = np.arange(steps * batch_size).reshape(steps, batch_size)
        # The padding repeats the last example, with weight zero.
        rows.append(group[np.minimum(positions, len(group) - 1)] if steps else positions)
        weights.append((positions < len(group)).astype(np.float32))
        buckets += [number] * steps
    bucket = None if task.buckets is None else np.array(buckets)
    return Order(np.concatenate(rows), bucket), np.concatenate(weights)
