"""Which examples every batch holds, and how they reach the devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from rnnjax.data.dataset import Arrays
from rnnjax.errors import require
from rnnjax.parallel.mesh import BATCH, filled_batch
from rnnjax.tasks.task import Batch, Buckets, Task

EVERYWHERE = PartitionSpec()
STEPS = PartitionSpec(None, BATCH)  # [steps, batch, ...]


class Order(NamedTuple):
    """The examples of some batches, ``rows [steps, B]``, and where there are buckets the one of each batch."""

    rows: Int[Array | np.ndarray, "steps B"]
    bucket: Int[Array | np.ndarray, " steps"] | None

    def part(self, first: int, count: int) -> Order:
        """Returns `count` batches from the batch `first`."""
        return jax.tree.map(lambda leaf: leaf[first : first + count], self)


class Feed(NamedTuple):
    """How batches reach a step.

    Attributes:
      resident: arrays that stay on the devices.
      batches: makes of an order what one call takes besides, ``[steps, B, ...]`` each.
      fetch: ``fetch(resident, item)`` makes one batch, on the device, from one entry of `batches`.
      whole: whether a call is to have the order of a whole epoch, from which it takes a part.
    """

    resident: Any
    batches: Callable[[Order], Any]
    fetch: Callable[[Any, Any], Batch]
    whole: bool = False


def place(mesh: Mesh, spec: PartitionSpec, tree: Any) -> Any:
    """Returns the arrays on the devices of the mesh; of several processes each places its own devices' parts."""
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(functools.partial(_own_parts, sharding), tree)


def _own_parts(sharding: NamedSharding, leaf: Any) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_own_parts(sharding, jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def device_feed(mesh: Mesh, split: Arrays) -> Feed:
    """Returns a feed with the whole split on every device; a batch is gathered there, from its row of the order."""

    def fetch(resident: Any, rows: Array) -> Batch:
        return jax.tree.map(lambda values: values[rows], resident)

    return Feed(place(mesh, EVERYWHERE, dict(split)), lambda order: place(mesh, STEPS, order.rows), fetch, whole=True)


def host_feed(mesh: Mesh, split: Arrays) -> Feed:
    """Returns a feed that gathers batches on the host and sends them while the devices work on those before.

    Of several processes each gathers the examples of its own devices.
    """
    sharding = NamedSharding(mesh, STEPS)

    def batches(order: Order) -> Any:
        rows = np.asarray(order.rows)

        def gathered(values: np.ndarray) -> Array:
            def part(index: Any) -> np.ndarray:
                return values[rows[index[:2]]]

            return jax.make_array_from_callback(rows.shape + values.shape[1:], sharding, part)

        return {name: gathered(values) for name, values in split.items()}

    return Feed((), batches, lambda resident, batch: batch)


def epoch_steps(task: Task, batch_size: int) -> int:
    """Returns the number of training steps in an epoch.

    Raises:
      ConfigError: if there are fewer examples, of a bucket or in all, than one batch takes.
    """
    groups = example_groups(task, "train")
    for group in groups:
        where = "" if task.buckets is None else " in a bucket"
        fits = batch_size <= len(group)
        require(fits, f"batch_size is {batch_size}, but there are {len(group)} training examples{where}")
    return sum(len(group) // batch_size for group in groups)


def example_groups(task: Task, split: str) -> list[Int[np.ndarray, " n"]]:
    """Returns the examples of a split that can be together in a batch: those of each bucket, or all of them."""
    if task.buckets is None:
        return [np.arange(task.examples(split))]
    return [np.flatnonzero(task.buckets.of[split] == bucket) for bucket in range(len(task.buckets.widths))]


def epoch_orders(mesh: Mesh, task: Task, seed: int, batch_size: int) -> Callable[[int], Order]:
    """Returns a function of the epoch: its batches, shuffled unless the task is ordered.

    The odd examples of an epoch, too few for a batch, are left out. A batch is filled up to divide over the devices, by
    examples that `batch_weights` does not count.
    """
    groups = example_groups(task, "train")
    filling = filled_batch(mesh, batch_size) - batch_size
    run_key = jax.random.fold_in(jax.random.key(seed), 1)

    def whole(rows: Array) -> Array:
        rows = rows[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
        return jnp.pad(rows, ((0, 0), (0, filling)), mode="edge") if filling else rows

    @jax.jit
    def batches(epoch: Array) -> Order:
        key = jax.random.fold_in(run_key, epoch)
        if task.ordered:
            return Order(whole(jnp.asarray(groups[0])), None)
        if task.buckets is None:
            return Order(whole(jax.random.permutation(key, len(groups[0]))), None)
        keys = jax.random.split(key, len(groups) + 1)
        rows = [whole(jax.random.permutation(k, jnp.asarray(group))) for k, group in zip(keys, groups)]
        bucket = np.repeat(np.arange(len(groups)), [len(part) for part in rows])
        mixed = jax.random.permutation(keys[-1], len(bucket))
        return Order(jnp.concatenate(rows)[mixed], jnp.asarray(bucket)[mixed])

    @functools.lru_cache(1)
    def order(epoch: int) -> Order:
        return batches(epoch)

    return order


def batch_weights(mesh: Mesh, batch_size: int) -> Float[np.ndarray, " B"]:
    """Returns the weights of a batch's examples: 0 for those that fill it up to divide over the devices."""
    return (np.arange(filled_batch(mesh, batch_size)) < batch_size).astype(np.float32)


def left_out(task: Task, batch_size: int) -> int:
    """Returns how many training examples each epoch leaves out, because they are too few for a batch."""
    return sum(len(group) % batch_size for group in example_groups(task, "train"))


def evaluation_order(task: Task, split: str, batch_size: int) -> tuple[Order, Float[np.ndarray, "steps B"]]:
    """Returns batches with every example of a split, and their weights: 0 for those added to fill a batch."""
    rows, weights, bucket = [], [], []
    for number, group in enumerate(example_groups(task, split)):
        steps = -(-len(group) // batch_size)
        place_in_group = np.arange(steps * batch_size).reshape(steps, batch_size)
        rows.append(group[np.minimum(place_in_group, len(group) - 1)] if steps else place_in_group)
        weights.append((place_in_group < len(group)).astype(np.float32))
        bucket += [number] * steps
    buckets = None if task.buckets is None else np.array(bucket)
    return Order(np.concatenate(rows), buckets), np.concatenate(weights)


def by_bucket(buckets: Buckets | None, run: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch, Any], Any]:
    """Returns ``(state, batch, bucket) -> run(state, batch)`` with the batch's fields cut to the bucket's widths."""
    if buckets is None:
        return lambda state, batch, bucket: run(state, batch)

    def cut_to(widths: Any) -> Callable[[Any, Batch], Any]:
        def branch(state: Any, batch: Batch) -> Any:
            return run(state, batch | {name: batch[name][:, :width] for name, width in widths.items()})

        return branch

    branches = [cut_to(widths) for widths in buckets.widths]
    return lambda state, batch, bucket: jax.lax.switch(bucket, branches, state, batch)
