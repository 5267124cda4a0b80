"""The compiled programs of a run: many training steps in one call, and the evaluation of a split."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from rnnjax.memory import program_that_fits
from rnnjax.parallel.layers import splitting_layers
from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import BATCH, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.batches import (
    EVERYWHERE,
    STEPS,
    Feed,
    Order,
    batch_weights,
    by_bucket,
    evaluation_order,
    host_feed,
    place,
)
from rnnjax.training.state import TrainState
from rnnjax.training.step import Sums, evaluation_sums, mean, train_step

SPLIT = PartitionSpec(BATCH)
_SPECS: Any = (EVERYWHERE, EVERYWHERE, EVERYWHERE, SPLIT, EVERYWHERE)
STATE = TrainState(*_SPECS)


def place_state(mesh: Mesh, state: TrainState) -> TrainState:
    """Returns the state on the devices: a carry split like the batch, all else everywhere."""
    return jax.tree.map(lambda spec, part: place(mesh, spec, part), STATE, state)


def settle(results: Any) -> Any:
    """Returns results, on a CPU once they are there: with programs of several devices under way at the same time,
    each waiting for all devices, XLA's threads could run out. Other devices take programs in turn."""
    return jax.block_until_ready(results) if jax.default_backend() == "cpu" else results


class TrainProgram:
    """Training steps compiled to one call, once for each number of steps in a call.

    Attributes:
      compile_seconds: time spent on tracing and compiling so far.
      input_seconds: time that the host spent on gathering and sending batches so far.
      ready: when the first step could begin, by `time.perf_counter`.
    """

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        feed: Feed,
        batch_size: int,
        via: str = "shard_map",
    ):
        self.compile_seconds = self.input_seconds = self.ready = 0.0
        self._mesh, self._feed = mesh, feed
        self._weight = place(mesh, SPLIT, batch_weights(mesh, batch_size))
        self._compiled: dict[int, Callable] = {}

        def steps(state: TrainState, resident: Any, batches: Any, bucket: Any, weight: Any) -> tuple[TrainState, Any]:
            step = by_bucket(
                task.buckets, lambda state, batch: train_step(task, optimizer, BATCH, state, batch, weight)
            )

            def one(state: TrainState, item: Any) -> tuple[TrainState, dict[str, Array]]:
                return step(state, feed.fetch(resident, item[0]), item[1])

            return jax.lax.scan(one, state, (batches, bucket))

        in_specs = (STATE, EVERYWHERE, STEPS, EVERYWHERE, SPLIT)
        steps = splitting_layers(steps, mesh)
        self._compile = map_over_devices(steps, mesh, in_specs, (STATE, EVERYWHERE), via=via, donate=[0])

    def __call__(self, state: TrainState, order: Order) -> tuple[TrainState, dict[str, Array]]:
        """Takes a step for every batch of an order; returns the state and the metrics of each step.

        Returns before the devices are done. `state` is donated: it cannot be used again.
        """
        started = time.perf_counter()
        arguments = (
            state,
            self._feed.resident,
            self._feed.batches(order),
            place(self._mesh, EVERYWHERE, order.bucket),
            self._weight,
        )
        self.input_seconds += time.perf_counter() - started
        count = len(order.rows)
        if count not in self._compiled:
            started = time.perf_counter()
            self._compiled[count] = program_that_fits(self._compile(*arguments), self._mesh.size)
            self.compile_seconds += time.perf_counter() - started
        self.ready = self.ready or time.perf_counter()
        return settle(self._compiled[count](*arguments))


def evaluator(
    task: Task, mesh: Mesh, split: str, batch_size: int, *, resident: bool, via: str = "shard_map"
) -> Callable[[Any], dict[str, Array]]:
    """Returns a function of the parameters: the means of all metrics over the split, every example counted once.

    Args:
      task: the task.
      mesh: its devices.
      split: name of the split.
      batch_size: examples evaluated at a time.
      resident: whether the split stays on the devices; otherwise some batches are sent at a time.
      via: "shard_map" or "pmap".
    """
    order, weights = evaluation_order(task, split, filled_batch(mesh, batch_size))
    send = host_feed(mesh, task.data.splits[split]).batches
    pieces = evaluation_pieces(order, weights, len(weights) if resident else None)
    sums = split_sums(task)

    def arguments(order: Order, weights: np.ndarray) -> Any:
        return send(order), place(mesh, STEPS, weights), place(mesh, EVERYWHERE, order.bucket)

    in_specs = (EVERYWHERE, SPLIT, STEPS, STEPS, EVERYWHERE)
    compile_sums = map_over_devices(splitting_layers(sums, mesh), mesh, in_specs, (SPLIT, EVERYWHERE), via=via)
    compiled: dict[int, Callable] = {}  # the last piece may have fewer batches
    start = place(mesh, SPLIT, task.carry)
    placed = [arguments(*pieces[0])] if resident else None

    def means(params: Any) -> dict[str, Array]:
        carry, totals = start, []
        for piece in placed or (arguments(*piece) for piece in pieces):
            count = len(piece[1])
            if count not in compiled:
                compiled[count] = compile_sums(params, carry, *piece)
            carry, total = settle(compiled[count](params, carry, *piece))
            totals.append(total)
        total = jax.tree.map(lambda *parts: sum(parts), *totals)
        return {name: mean(value) for name, value in total.items()}

    return means


def evaluation_pieces(order: Order, weights: np.ndarray, at_a_time: int | None) -> list[tuple[Order, np.ndarray]]:
    """Returns the batches of an evaluation and their weights, some batches at a time; None takes a usual number."""
    count = at_a_time or _BATCHES_AT_A_TIME
    return [(order.part(first, count), weights[first : first + count]) for first in range(0, len(weights), count)]


def split_sums(task: Task) -> Callable[..., tuple[Any, Sums]]:
    """Returns ``(params, carry, batches, weights, bucket) -> (carry, sums)``: those of all metrics over the batches."""

    def sums(params: Any, carry: Any, batches: Any, weights: Array, bucket: Any) -> tuple[Any, Sums]:
        def one(carry: Any, item: Any) -> tuple[Any, Sums]:
            batch, weight, bucket = item
            run = by_bucket(
                task.buckets, lambda carry, batch: evaluation_sums(task, BATCH, params, carry, batch, weight)
            )
            return run(carry, batch, bucket)

        carry, parts = jax.lax.scan(one, carry, (batches, weights, bucket))
        return carry, jax.tree.map(lambda part: part.sum(), parts)

    return sums


def scores(task: Task, params: Any, split: str) -> dict[str, float]:
    """Returns the task's own scores of a split, computed on one device; nothing where it has none."""
    return {} if task.score is None else task.score(jax.device_get(params), split)


_BATCHES_AT_A_TIME = 64
