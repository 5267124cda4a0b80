"""The batches of a run: which examples each has, and how they reach the devices, where a split stays or is sent."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from rnnjax.data.dataset import Arrays
from rnnjax.errors import require
from rnnjax.parallel.mesh import BATCH, EVERYWHERE, RUNS, filled_batch, padded_runs, place
from rnnjax.tasks.task import Batch, Task

EACH_RUN = PartitionSpec(RUNS)  # [runs, ...]
STEPS = PartitionSpec(None, BATCH)  # [steps, batch, ...]
STEPS_OF_EACH = PartitionSpec(RUNS, None, BATCH)  # [runs, steps, batch, ...]
_FEWEST_BATCHES = 8  # that a call is padded to when the host sends them

Traced = Mapping[str, Float[Array | np.ndarray, " runs"]]  # values of the optimiser's fields that differ between runs


class Order(NamedTuple):
    """The examples of some batches, and if there are buckets, the bucket of each batch.

    Every run that is trained has batches of its own; those of an evaluation are the same for all runs, and have no axis
    of runs.
    """

    rows: Int[Array | np.ndarray, "*runs steps B"]
    bucket: Int[Array | np.ndarray, "*runs steps"] | None


def epoch_orders(task: Task, seeds: Sequence[int], batch_size: int, mesh: Mesh) -> Callable[[int], Order]:
    """Returns a function from the epoch to the batches of every run, shuffled unless the task is ordered.

    Examples that do not fill a batch are left out. A batch that does not divide over the devices is filled up with
    examples to which a feed gives weight zero, and so are the runs, with copies of the last.

    Args:
      task: the task.
      seeds: of every run; a run has the same batches whichever others there are.
      batch_size: examples in a batch.
      mesh: the devices.

    Raises:
      ConfigError: if the task carries state from batch to batch and a batch does not divide over the devices.
    """
    groups, padding = task.groups("train"), filled_batch(mesh, batch_size) - batch_size
    require(
        task.carry is None or not padding,
        f"batch_size {batch_size} does not divide over {mesh.shape[BATCH]} devices, which this task needs because it "
        "carries state from batch to batch; choose a multiple, or another parallel.batch",
    )

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

    seed_array = np.array(seeds, np.uint32)[padded_runs(mesh, len(seeds))]
    # The same object for all calls of an epoch, as a feed expects.
    return functools.lru_cache(1)(lambda epoch: of_runs(seed_array, epoch))


def evaluation_order(task: Task, split: str, batch_size: int) -> tuple[Order, Float[np.ndarray, "steps B"]]:
    """Returns batches with every example of a split, and the weights of their examples: 0 for padding.

    Args:
      task: the task.
      split: name of the split.
      batch_size: examples in a batch.
    """
    rows, weights, buckets = [], [], []
    for number, group in enumerate(task.groups(split)):
        steps = math.ceil(len(group) / batch_size)
        positions = np.arange(steps * batch_size).reshape(steps, batch_size)
        # The padding repeats the last example, with weight zero.
        rows.append(group[np.minimum(positions, len(group) - 1)] if steps else positions)
        weights.append((positions < len(group)).astype(np.float32))
        buckets += [number] * steps
    bucket = None if task.buckets is None else np.array(buckets)
    return Order(np.concatenate(rows), bucket), np.concatenate(weights)


class CallInputs(NamedTuple):
    """What a call reads besides the states.

    Attributes:
      traced: for every run, the values of the fields of the optimiser that differ.
      resident: arrays that stay on the devices.
      weight: of each example in a batch; 0 for those that fill it up.
      batches: of every run, what a feed's `fetch` makes each batch of.
      bucket: of each of these batches; None without buckets.
    """

    traced: Any
    resident: Any
    weight: Any
    batches: Any
    bucket: Any


CALL_INPUTS = CallInputs(EACH_RUN, EVERYWHERE, PartitionSpec(BATCH), STEPS_OF_EACH, EACH_RUN)
"""How the inputs of a call are split over the devices of a mesh."""


class Feed(abc.ABC):
    """How the batches of all runs reach a training step, with whatever else a call reads besides the states.

    Args:
      mesh: the devices.
      split: the training split.
      batch_size: examples in a batch.
      traced: for every run, the values of the fields of the optimiser that differ.
      resident: arrays that stay on the devices.
    """

    def __init__(self, mesh: Mesh, split: Arrays, batch_size: int, traced: Traced | None, resident: Any):
        self._mesh, self._split = mesh, split
        weight = (np.arange(filled_batch(mesh, batch_size)) < batch_size).astype(np.float32)
        padded = {name: values[padded_runs(mesh, len(values))] for name, values in (traced or {}).items()}
        # In all calls.
        self._same = CallInputs(
            place(mesh, EACH_RUN, padded), resident, place(mesh, PartitionSpec(BATCH), weight), None, None
        )

    @abc.abstractmethod
    def __call__(self, order: Order, first: int, count: int, most: int) -> tuple[CallInputs, int]:
        """Returns the inputs of a call.

        Args:
          order: batches of every run.
          first: number of the call's first batch.
          count: number of steps of the call.
          most: number that `count` never exceeds.

        Returns:
          the inputs, and the number of the call's first batch among their batches.
        """

    @abc.abstractmethod
    def fetch(self, resident: Any, item: Any) -> Batch:
        """Returns one batch, on the device, where `item` is one step's part of a call's batches."""

    def best_count(self, count: int, most: int) -> int:
        """Returns how many of the next `count` steps a call of at most `most` should take."""
        return count

    def _inputs(self, order: Order, batches: Any) -> CallInputs:
        return self._same._replace(batches=batches, bucket=place(self._mesh, EACH_RUN, order.bucket))


class ResidentFeed(Feed):
    """The split stays on every device, where each batch is gathered; indices of examples are sent once an epoch.

    Args:
      mesh, split, batch_size, traced: as for `Feed`.
    """

    def __init__(self, mesh: Mesh, split: Arrays, batch_size: int, traced: Traced | None = None):
        super().__init__(mesh, split, batch_size, traced, place(mesh, EVERYWHERE, dict(split)))
        self._order: Order | None = None
        self._epoch = self._same

    def __call__(self, order: Order, first: int, count: int, most: int) -> tuple[CallInputs, int]:
        # By identity: `epoch_orders` returns one object for an epoch, which is then placed once for all of its calls.
        if order is not self._order:
            self._order = order
            self._epoch = self._inputs(order, place(self._mesh, STEPS_OF_EACH, order.rows))
        return self._epoch, first

    def fetch(self, resident: Any, item: Any) -> Batch:
        return jax.tree.map(lambda values: values[item], resident)


class SentFeed(Feed):
    """The host gathers the batches of a call, and sends them while the devices compute earlier ones.

    Args:
      mesh, split, batch_size, traced: as for `Feed`.
    """

    def __init__(self, mesh: Mesh, split: Arrays, batch_size: int, traced: Traced | None = None):
        super().__init__(mesh, split, batch_size, traced, ())

    def __call__(self, order: Order, first: int, count: int, most: int) -> tuple[CallInputs, int]:
        order = window(order, first, count, most)
        # 0, since what is sent begins with the call's first batch.
        return self._inputs(order, sent(self._mesh, STEPS_OF_EACH, self._split, order)), 0

    def fetch(self, resident: Any, item: Any) -> Batch:
        return item

    def best_count(self, count: int, most: int) -> int:
        # As many as the host sends for a call, so that none of them is padding.
        return count if count >= most else 1 << (count.bit_length() - 1)


def window(order: Order, first: int, count: int, most: int) -> Order:
    """Returns the batches of a call that the host sends, padded with the last one.

    They are padded to a power of two, or to `most`, so that few programs are compiled.

    Args:
      order: the batches of an epoch, of every run.
      first: number of the first batch of the call.
      count: number of batches of the call.
      most: number that `count` never exceeds.
    """
    size = min(most, max(_FEWEST_BATCHES, 1 << (count - 1).bit_length()))
    steps = np.minimum(np.arange(first, first + size), first + count - 1)
    return jax.tree.map(lambda leaf: np.take(np.asarray(leaf), steps, axis=1), order)


def sent(mesh: Mesh, spec: PartitionSpec, split: Arrays, order: Order) -> dict[str, Shaped[Array, "..."]]:
    """Returns batches on the devices; each process gathers the examples of its own devices.

    Args:
      mesh: the devices.
      spec: how the rows of the order are split over them.
      split: the examples.
      order: the batches.
    """
    rows, sharding = np.asarray(order.rows), NamedSharding(mesh, spec)

    def gathered(values: np.ndarray) -> Array:
        def shard(index: Any) -> np.ndarray:
            # A shard is a part of the rows, and has all of the other axes.
            return values[rows[index[: rows.ndim]]]

        return jax.make_array_from_callback(rows.shape + values.shape[1:], sharding, shard)

    return {name: gathered(values) for name, values in split.items()}
