"""How batches reach the devices: from a split that stays there, or sent by the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from rnnjax.data.dataset import Arrays
from rnnjax.parallel.mesh import BATCH, EVERYWHERE, RUNS, filled_batch, place
from rnnjax.tasks.task import Batch
from rnnjax.training.batches import Order

EACH_RUN = PartitionSpec(RUNS)  # [runs, ...]
STEPS = PartitionSpec(None, BATCH)  # [steps, batch, ...]
STEPS_OF_EACH = PartitionSpec(RUNS, None, BATCH)  # [runs, steps, batch, ...]
CALL_INPUTS = (EACH_RUN, EVERYWHERE, PartitionSpec(BATCH), STEPS_OF_EACH, EACH_RUN)
_FEWEST_BATCHES = 8  # that a call is padded to when the host sends them

Traced = Mapping[str, Float[Array | np.ndarray, " runs"]]  # values of the optimiser's fields that differ between runs


class Feed(NamedTuple):
    """How batches reach a training step.

    Attributes:
      resident: arrays that stay on the devices.
      batches: ``batches(order)`` returns what a call takes in addition, each array ``[runs, steps, B, ...]``.
      fetch: ``fetch(resident, item)`` returns one batch, on the device, where `item` is one step's part of `batches`.
      whole: whether `batches` is to be given the order of a whole epoch, of which a call then uses a part.
      weight: the weights of a batch's examples: 0 for those that pad it to divide over the devices.
    """

    resident: Any
    batches: Callable[[Order], Any]
    fetch: Callable[[Any, Any], Batch]
    whole: bool
    weight: Float[Array, " B"]


def training_feed(mesh: Mesh, split: Arrays, batch_size: int, *, resident: bool) -> Feed:
    """Returns a feed of the training split of all runs.

    Args:
      mesh: the devices.
      split: the training split.
      batch_size: examples in a batch.
      resident: whether it stays on every device, where each batch is gathered; otherwise the host gathers batches, and
        sends them while the devices compute earlier ones.
    """
    counts = (np.arange(filled_batch(mesh, batch_size)) < batch_size).astype(np.float32)
    weight = place(mesh, PartitionSpec(BATCH), counts)
    if not resident:
        return Feed((), lambda order: sent(mesh, STEPS_OF_EACH, split, order), lambda _, batch: batch, False, weight)

    def fetch(resident: Any, rows: Array) -> Batch:
        return jax.tree.map(lambda values: values[rows], resident)

    on_devices = place(mesh, EVERYWHERE, dict(split))
    return Feed(on_devices, lambda order: place(mesh, STEPS_OF_EACH, order.rows), fetch, True, weight)


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


class CallInputs:
    """Places on the devices what a call reads besides the states.

    Args:
      mesh: the devices.
      feed: how batches reach them.
      traced: for every run, the values of the fields of the optimiser that differ.

    Attributes:
      size: number of batches that were placed last.
    """

    def __init__(self, mesh: Mesh, feed: Feed, traced: Traced):
        self._mesh, self._feed = mesh, feed
        self._same = (place(mesh, EACH_RUN, dict(traced)), feed.resident, feed.weight)  # in all calls
        self._order: Order | None = None
        self._placed: tuple[Any, ...] = ()
        self.size = 0

    def __call__(self, order: Order, first: int, count: int, most: int) -> tuple[tuple[Any, ...], int]:
        """Returns the inputs of a call.

        Args:
          order: batches of every run.
          first: number of the call's first batch.
          count: number of steps of the call.
          most: number that `count` never exceeds.

        Returns:
          traced values, the feed's resident arrays, weights, batches and the bucket of each, split as `CALL_INPUTS`
          says; and the number of the call's first batch in these.
        """
        if not self._feed.whole:
            # 0, since what is sent begins with the call's first batch.
            return (*self._same, *self._place(window(order, first, count, most))), 0
        # By identity: `epoch_orders` returns one object for an epoch, which is then placed once for all of its calls.
        if order is not self._order:
            self._order, self._placed = order, self._place(order)
        return (*self._same, *self._placed), first

    def _place(self, order: Order) -> tuple[Any, Any]:
        self.size = order.rows.shape[1]
        return self._feed.batches(order), place(self._mesh, EACH_RUN, order.bucket)

    def best_count(self, count: int, most: int) -> int:
        """Returns how many of the next `count` steps a call of at most `most` should take."""
        if self._feed.whole or count >= most:
            return count
        # As many as the host sends for a call, so that none of them is padding.
        return 1 << (count.bit_length() - 1)


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
