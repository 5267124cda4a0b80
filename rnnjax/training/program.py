"""The compiled programs of a run: many training steps in one call, and the evaluation of a split."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from rnnjax.data.dataset import Arrays
from rnnjax.parallel.mesh import BATCH
from rnnjax.tasks.task import Task
from rnnjax.training.state import TrainState
from rnnjax.training.step import evaluation_sums, train_step

EVERYWHERE = PartitionSpec()
STEPS = PartitionSpec(None, BATCH)  # [steps, batch, ...]
_SPECS: Any = (EVERYWHERE, EVERYWHERE, EVERYWHERE, PartitionSpec(BATCH), EVERYWHERE)
STATE = TrainState(*_SPECS)


def place(mesh: Mesh, spec: PartitionSpec, tree: Any) -> Any:
    """Returns the arrays on the devices of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, spec))


def place_state(mesh: Mesh, state: TrainState) -> TrainState:
    """Returns the state on the devices: a carry split like the batch, all else everywhere."""
    return jax.device_put(state, jax.tree.map(lambda spec: NamedSharding(mesh, spec), STATE))


class Feed(NamedTuple):
    """How batches reach the training step.

    Attributes:
      resident: arrays that stay on the devices.
      batches: ``batches(order, first, count)`` gives what one call of `count` steps takes besides, ``[count, B, ...]``
        each; `order [steps, B]` holds the epoch's examples, batch by batch.
      fetch: ``fetch(resident, item)`` makes one batch, on the device, from one entry of `batches`.
    """

    resident: Any
    batches: Callable[[Int[Array, "steps B"], int, int], Any]
    fetch: Callable[[Any, Any], Any]


def device_feed(mesh: Mesh, split: Arrays) -> Feed:
    """Returns a feed with the whole split on every device; a batch is gathered there, from its row of the order."""

    def batches(order: Array, first: int, count: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(order, first, count)

    def fetch(resident: Any, rows: Array) -> Any:
        return jax.tree.map(lambda values: values[rows], resident)

    return Feed(place(mesh, EVERYWHERE, dict(split)), batches, fetch)


def host_feed(mesh: Mesh, split: Arrays) -> Feed:
    """Returns a feed that gathers batches on the host and sends them while the devices work on those before."""

    def batches(order: Array, first: int, count: int) -> Any:
        rows = np.asarray(order)[first : first + count]
        return place(mesh, STEPS, {name: values[rows] for name, values in split.items()})

    return Feed((), batches, lambda resident, batch: batch)


def epoch_orders(mesh: Mesh, seed: int, examples: int, batch_size: int) -> Callable[[int], Int[Array, "steps B"]]:
    """Returns a function of the epoch: its examples in random order, batch by batch, the odd last ones left out."""
    steps = examples // batch_size
    key = jax.random.fold_in(jax.random.key(seed), 1)

    @jax.jit
    def shuffled(epoch: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), examples)
        return order[: steps * batch_size].reshape(steps, batch_size)

    @functools.lru_cache(1)
    def order(epoch: int) -> Array:
        return place(mesh, STEPS, shuffled(epoch))

    return order


def settle(results: Any) -> Any:
    """Returns results, on a CPU once they are there: with programs of several devices under way at the same time,
    each waiting for all devices, XLA's threads could run out. Other devices take programs in turn."""
    return jax.block_until_ready(results) if jax.default_backend() == "cpu" else results


class TrainProgram:
    """Training steps compiled to one call, once for each number of steps in a call.

    Attributes:
      compile_seconds: time spent on tracing and compiling so far.
    """

    def __init__(self, task: Task, optimizer: optax.GradientTransformation, mesh: Mesh, feed: Feed):
        self.compile_seconds = 0.0
        self._feed = feed
        self._compiled: dict[int, Callable] = {}
        step = functools.partial(train_step, task, optimizer, BATCH)

        def steps(state: TrainState, resident: Any, batches: Any) -> tuple[TrainState, dict[str, Array]]:
            return jax.lax.scan(lambda state, item: step(state, feed.fetch(resident, item)), state, batches)

        mapped = jax.shard_map(steps, mesh=mesh, in_specs=(STATE, EVERYWHERE, STEPS), out_specs=(STATE, EVERYWHERE))
        self._steps = jax.jit(mapped, donate_argnums=0)

    def __call__(
        self, state: TrainState, order: Int[Array, "steps B"], first: int, count: int
    ) -> tuple[TrainState, dict[str, Array]]:
        """Takes `count` steps from step `first` of the epoch; returns the state and the metrics of each step.

        Returns before the devices are done. `state` is donated: it cannot be used again.
        """
        arguments = (state, self._feed.resident, self._feed.batches(order, first, count))
        if count not in self._compiled:
            started = time.perf_counter()
            self._compiled[count] = self._steps.lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - started
        return settle(self._compiled[count](*arguments))


def evaluator(
    task: Task, mesh: Mesh, split: Arrays, batch_size: int, *, resident: bool
) -> Callable[[Any], dict[str, Array]]:
    """Returns a function of the parameters: the means of all metrics over the split, every example counted once.

    Args:
      task: the task.
      mesh: its devices.
      split: the arrays of the split.
      batch_size: examples evaluated at a time.
      resident: whether the split stays on the devices; otherwise some batches are sent at a time.
    """
    examples = len(next(iter(split.values())))
    batches, weights = _padded_rows(examples, batch_size)
    parts = 1 if resident else -(-len(batches) // _BATCHES_AT_A_TIME)

    def send(rows: np.ndarray, weights: np.ndarray) -> Any:
        return place(mesh, STEPS, ({name: values[rows] for name, values in split.items()}, weights))

    def sums(params: Any, carry: Any, batches: Any, weights: Array) -> tuple[Any, dict[str, Array]]:
        def one(carry: Any, item: Any) -> tuple[Any, dict[str, Array]]:
            return evaluation_sums(task, BATCH, params, carry, *item)

        carry, parts = jax.lax.scan(one, carry, (batches, weights))
        return carry, jax.tree.map(lambda part: part.sum(), parts)

    split_carry = PartitionSpec(BATCH)
    specs = {"in_specs": (EVERYWHERE, split_carry, STEPS, STEPS), "out_specs": (split_carry, EVERYWHERE)}
    mapped = jax.jit(jax.shard_map(sums, mesh=mesh, **specs))
    start = place(mesh, split_carry, task.carry)
    pieces = list(zip(np.array_split(batches, parts), np.array_split(weights, parts)))
    placed = [send(*pieces[0])] if resident else None

    def means(params: Any) -> dict[str, Array]:
        carry, totals = start, []
        for piece in placed or (send(*piece) for piece in pieces):
            carry, total = settle(mapped(params, carry, *piece))
            totals.append(total)
        return jax.tree.map(lambda *total: sum(total) / examples, *totals)

    return means


_BATCHES_AT_A_TIME = 64


def _padded_rows(examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns examples ``[batches, B]`` and their weights, 0 for those added to fill the last batch."""
    count = -(-examples // batch_size)
    number = np.arange(count * batch_size).reshape(count, batch_size)
    return np.minimum(number, examples - 1), (number < examples).astype(np.float32)
