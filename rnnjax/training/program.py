"""The compiled training steps of a run, many in one call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from rnnjax.backend import waits_for_calls
from rnnjax.memory import program_that_fits
from rnnjax.parallel.distributed import maximum_over_processes
from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import BATCH
from rnnjax.parallel.splitting import splitting
from rnnjax.tasks.task import Task
from rnnjax.training.batches import (
    EVERYWHERE,
    STEPS,
    Feed,
    Order,
    batch_weights,
    by_bucket,
    place,
)
from rnnjax.training.state import TrainState
from rnnjax.training.step import train_step
from rnnjax.training.stepping import best_sent, some_steps, window

SPLIT = PartitionSpec(BATCH)
_SPECS: Any = (EVERYWHERE, EVERYWHERE, EVERYWHERE, SPLIT, EVERYWHERE)
STATE = TrainState(*_SPECS)


def place_state(mesh: Mesh, state: TrainState) -> TrainState:
    """Returns the state on the devices: the carry is split like the batch, everything else is replicated."""
    return jax.tree.map(lambda spec, part: place(mesh, spec, part), STATE, state)


def settle(results: Any) -> Any:
    """Returns results, after waiting for them if this kind of device needs that."""
    return jax.block_until_ready(results) if waits_for_calls() else results


def longest_of_processes(seconds: float) -> float:
    """Returns the largest number of seconds of any process of the run, in microseconds; all must call this."""
    if jax.process_count() == 1:
        return seconds
    # Whole numbers of 32 bits, since that is what processes exchange.
    microseconds = min(math.ceil(1e6 * seconds), 2**31 - 1)
    return (maximum_over_processes(microseconds) or 0) / 1e6


class TrainProgram:
    """Training steps compiled to one call, which takes any number of them.

    Args:
      task: the task.
      optimizer: updates the parameters.
      mesh: the devices.
      feed: how batches reach them.
      batch_size: examples in a batch.
      map: "shard_map" or "pmap".
      most: most steps in a call; None for as many as the order has batches.
      known: whether the number of steps is compiled into the program, so that there is a program for each number.

    Attributes:
      compile_seconds: time spent on tracing and compiling so far.
      input_seconds: time that the host has spent on gathering and sending batches so far.
      ready: when the first step could begin, by `time.perf_counter`.
    """

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        feed: Feed,
        batch_size: int,
        map: str = "shard_map",
        *,
        most: int | None = None,
        known: bool = False,
    ):
        self.compile_seconds = self.input_seconds = self.ready = 0.0
        self._mesh, self._most, self._known = mesh, most, known
        self._inputs = CallInputs(mesh, feed, EVERYWHERE)
        self._weight = place(mesh, SPLIT, batch_weights(mesh, batch_size))
        self._programs: dict[Any, Callable] = {}

        def steps(state: TrainState, resident: Any, batches: Any, bucket: Any, weight: Any, *numbers: Any) -> Any:
            step_of_batch = by_bucket(
                task.buckets, lambda state, batch: train_step(task, optimizer, BATCH, state, batch, weight)
            )

            def step(state: TrainState, item: Any) -> Any:
                batch, bucket = item
                return step_of_batch(state, feed.fetch(resident, batch), bucket)

            first, count, most = numbers
            return some_steps(step, state, (batches, bucket), first, count, most)

        def compile_for(most: int, known_count: int | None, arguments: Any) -> Callable:
            def call(*arguments: Any) -> Any:
                constants = (most,) if known_count is None else (known_count, most)
                return steps(*arguments, *constants)

            # `first`, and `count` unless it is a constant of the program.
            numbers = [EVERYWHERE] * (1 if known else 2)
            in_specs = (STATE, EVERYWHERE, STEPS, EVERYWHERE, SPLIT, *numbers)
            function = splitting(call, mesh)
            return map_over_devices(function, mesh, in_specs, (STATE, EVERYWHERE), map=map, donate=[0])(*arguments)

        self._compile = compile_for

    def __call__(
        self, state: TrainState, order: Order, first: int = 0, count: int | None = None
    ) -> tuple[TrainState, dict[str, Float[Array, " most"]]]:
        """Takes `count` steps, and returns before the devices have computed them.

        Args:
          state: the state to begin with; it is donated, and cannot be used again.
          order: batches, of which each step takes one.
          first: number of the first step's batch.
          count: number of steps; None takes all batches of the order.

        Returns:
          the state after the last step, and the metrics of each step, zeros from `count` on.
        """
        count = len(order.rows) if count is None else count
        most = self._most or len(order.rows)
        started = time.perf_counter()
        resident, batches, bucket, first = self._inputs(order, first, count, most)
        numbers = (np.int32(first),) if self._known else (np.int32(first), np.int32(count))
        arguments = (state, resident, batches, bucket, self._weight, *numbers)
        self.input_seconds += time.perf_counter() - started
        known_count = count if self._known else None
        # Of what a program is compiled for; shapes of everything else stay the same in a run.
        key = (most, self._inputs.size, known_count)
        if key not in self._programs:
            started = time.perf_counter()
            compiled = self._compile(most, known_count, arguments)
            self._programs[key] = program_that_fits(compiled, self._mesh.size)
            self.compile_seconds += time.perf_counter() - started
        # That of the first call, also in all later ones.
        self.ready = self.ready or time.perf_counter()
        return settle(self._programs[key](*arguments))

    def best_count(self, count: int) -> int:
        """Returns how many of the next `count` steps one call should take."""
        return self._inputs.best_count(count, self._most or count)


class CallInputs:
    """Places on the devices what a call reads besides the state.

    Args:
      mesh: the devices.
      feed: how batches reach them.
      bucket_spec: how the buckets of batches are placed.
      axis: the axis of the steps in an order.

    Attributes:
      size: number of batches that were placed last.
    """

    def __init__(self, mesh: Mesh, feed: Feed, bucket_spec: PartitionSpec, axis: int = 0):
        self._mesh, self._feed, self._bucket_spec, self._axis = mesh, feed, bucket_spec, axis
        self._order: Order | None = None
        self._placed: tuple[Any, ...] = ()
        self.size = 0

    def __call__(self, order: Order, first: int, count: int, most: int) -> tuple[Any, Any, Any, int]:
        """Returns the inputs of a call.

        Args:
          order: batches.
          first: number of the call's first batch.
          count: number of steps of the call.
          most: number that `count` never exceeds.

        Returns:
          the feed's resident arrays, batches, the bucket of each, and the number of the call's first batch in these.
        """
        if not self._feed.whole:
            batches, bucket = self._place(window(order, first, count, most, self._axis))
            # 0, since what was sent begins with the call's first batch.
            return self._feed.resident, batches, bucket, 0
        # By identity: `epoch_orders` returns one object for an epoch, which is then placed once for all of its calls.
        if order is not self._order:
            self._order, self._placed = order, self._place(order)
        batches, bucket = self._placed
        return self._feed.resident, batches, bucket, first

    def _place(self, order: Order) -> tuple[Any, Any]:
        self.size = order.rows.shape[self._axis]
        return self._feed.batches(order), place(self._mesh, self._bucket_spec, order.bucket)

    def best_count(self, count: int, most: int) -> int:
        """Returns how many of the next `count` steps a call of at most `most` should take."""
        return count if self._feed.whole else best_sent(count, most)
