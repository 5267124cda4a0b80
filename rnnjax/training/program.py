"""The compiled programs of a run: many training steps in one call, and the evaluation of a split."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from rnnjax.backend import waits_for_calls
from rnnjax.memory import program_that_fits
from rnnjax.parallel.distributed import maximum_over_processes
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
from rnnjax.training.pace import Pace
from rnnjax.training.state import TrainState
from rnnjax.training.step import Sums, evaluation_sums, mean, train_step
from rnnjax.training.stepping import best_sent, some_steps, window

SPLIT = PartitionSpec(BATCH)
_SPECS: Any = (EVERYWHERE, EVERYWHERE, EVERYWHERE, SPLIT, EVERYWHERE)
STATE = TrainState(*_SPECS)


def place_state(mesh: Mesh, state: TrainState) -> TrainState:
    """Returns the state on the devices: a carry split like the batch, all else everywhere."""
    return jax.tree.map(lambda spec, part: place(mesh, spec, part), STATE, state)


def settle(results: Any) -> Any:
    """Returns results, once they are there where calls are waited for."""
    return jax.block_until_ready(results) if waits_for_calls() else results


def agreed_seconds(seconds: float) -> float:
    """Returns the most that any process of the run measured, to the microsecond; all must call it."""
    if jax.process_count() == 1:
        return seconds
    return (maximum_over_processes(min(math.ceil(1e6 * seconds), 2**31 - 1)) or 0) / 1e6


class TrainProgram:
    """Training steps compiled to one call, which takes any number of them.

    Args:
      task, optimizer, mesh, feed, batch_size, map: of the run.
      most: steps that a call has at most; None for as many as its first order has batches.
      known: whether the number of steps is compiled into the program, which then is compiled for each.

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
        map: str = "shard_map",
        *,
        most: int | None = None,
        known: bool = False,
    ):
        self.compile_seconds = self.input_seconds = self.ready = 0.0
        self._mesh, self._most, self._known = mesh, most, known
        self._sent = Sent(mesh, feed, EVERYWHERE)
        self._weight = place(mesh, SPLIT, batch_weights(mesh, batch_size))
        self._programs: dict[Any, Callable] = {}

        def steps(state: TrainState, resident: Any, batches: Any, bucket: Any, weight: Any, *which: Any) -> Any:
            step = by_bucket(
                task.buckets, lambda state, batch: train_step(task, optimizer, BATCH, state, batch, weight)
            )

            def one(state: TrainState, item: Any) -> tuple[TrainState, dict[str, Array]]:
                return step(state, feed.fetch(resident, item[0]), item[1])

            return some_steps(one, state, (batches, bucket), *which)

        def compile_for(most: int, count: int | None, arguments: Any) -> Callable:
            def some(*given: Any) -> Any:
                return steps(*given, most) if count is None else steps(*given, count, most)

            in_specs = (STATE, EVERYWHERE, STEPS, EVERYWHERE, SPLIT, *[EVERYWHERE] * (len(arguments) - 5))
            mapped = splitting_layers(some, mesh)
            return map_over_devices(mapped, mesh, in_specs, (STATE, EVERYWHERE), map=map, donate=[0])(*arguments)

        self._compile = compile_for

    def __call__(
        self, state: TrainState, order: Order, first: int = 0, count: int | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """Takes a step for every batch of an order, or for `count` of them; returns the state and the metrics of each.

        There are ``[most]`` metrics, of which `count` are of steps. Returns before the devices are done. `state` is
        donated: it cannot be used again.
        """
        count = len(order.rows) if count is None else count
        most = self._most or len(order.rows)
        started = time.perf_counter()
        resident, batches, bucket, first = self._sent(order, first, count, most)
        which = (np.int32(first),) if self._known else (np.int32(first), np.int32(count))
        arguments = (state, resident, batches, bucket, self._weight, *which)
        self.input_seconds += time.perf_counter() - started
        key = (most, self._sent.size, count if self._known else None)
        if key not in self._programs:
            started = time.perf_counter()
            compiled = self._compile(most, count if self._known else None, arguments)
            self._programs[key] = program_that_fits(compiled, self._mesh.size)
            self.compile_seconds += time.perf_counter() - started
        self.ready = self.ready or time.perf_counter()
        return settle(self._programs[key](*arguments))

    def best_count(self, count: int) -> int:
        """Returns how many of `count` steps are best taken in one call."""
        return self._sent.best_count(count, self._most or count)


class Sent:
    """What a call takes besides the state: of a feed, the order that a call has a part of.

    Args:
      mesh: the devices.
      feed: how batches reach them.
      bucket_spec: how the buckets of batches are placed.
      axis: that of the steps in an order.

    Attributes:
      size: batches in what was sent last.
    """

    def __init__(self, mesh: Mesh, feed: Feed, bucket_spec: PartitionSpec, axis: int = 0):
        self._mesh, self._feed, self._bucket_spec, self._axis = mesh, feed, bucket_spec, axis
        self._order: Order | None = None
        self._placed: tuple[Any, ...] = ()
        self.size = 0

    def __call__(self, order: Order, first: int, count: int, most: int) -> tuple[Any, Any, Any, int]:
        """Returns the resident arrays, the batches, their buckets, and the place of the batch `first` in them."""
        if not self._feed.whole:
            batches, bucket = self._place(window(order, first, count, most, self._axis))
            return self._feed.resident, batches, bucket, 0
        if order is not self._order:
            self._order, self._placed = order, self._place(order)
        batches, bucket = self._placed
        return self._feed.resident, batches, bucket, first

    def _place(self, order: Order) -> tuple[Any, Any]:
        self.size = order.rows.shape[self._axis]
        return self._feed.batches(order), place(self._mesh, self._bucket_spec, order.bucket)

    def best_count(self, count: int, most: int) -> int:
        """Returns how many of `count` steps are best taken in one call of at most `most`."""
        return count if self._feed.whole else best_sent(count, most)


def evaluator(
    task: Task,
    mesh: Mesh,
    split: str,
    batch_size: int,
    *,
    resident: bool,
    map: str = "shard_map",
    call_seconds: float = 0.0,
) -> Evaluate:
    """Returns a function of the parameters: the means of all metrics over the split, every example counted once.

    Args:
      task: the task.
      mesh: its devices.
      split: name of the split.
      batch_size: examples evaluated at a time.
      resident: whether the split stays on the devices; otherwise some batches are sent at a time.
      map: "shard_map" or "pmap".
      call_seconds: seconds that a call may take, about, where it is waited for; 0 for any time.
    """
    order, weights = evaluation_order(task, split, filled_batch(mesh, batch_size))
    send = host_feed(mesh, task.data.splits[split]).batches
    sums = split_sums(task)

    def arguments(order: Order, weights: np.ndarray) -> Any:
        return send(order), place(mesh, STEPS, weights), place(mesh, EVERYWHERE, order.bucket)

    in_specs = (EVERYWHERE, SPLIT, STEPS, STEPS, EVERYWHERE, EVERYWHERE, EVERYWHERE)
    compile_sums = map_over_devices(splitting_layers(sums, mesh), mesh, in_specs, (SPLIT, EVERYWHERE), map=map)
    pieces = evaluation_pieces(order, weights, len(weights) if resident else None)
    start = place(mesh, SPLIT, task.carry)
    return in_pieces(pieces, arguments, compile_sums, start, call_seconds, resident=resident)


Evaluate = Callable[..., Any]
"""``(params, stopped=None)``: the means of all metrics; None where `stopped()` said so between two of its calls."""


def in_pieces(
    pieces: Sequence[tuple[Order, np.ndarray]],
    arguments: Callable[[Order, np.ndarray], Any],
    compile_sums: Callable[..., Callable],
    start: Any,
    call_seconds: float,
    *,
    resident: bool,
) -> Evaluate:
    """Returns an evaluation over pieces of a split, each of them again in calls that are bounded in time.

    Only calls that are waited for are: others are under way before it could be known how long they take.
    """
    compiled: dict[int, Callable] = {}  # the last piece may have fewer batches
    placed = [arguments(*piece) for piece in pieces] if resident else None
    pace = Pace(call_seconds if waits_for_calls() else 0.0)

    def means(params: Any, stopped: Callable[[], Any] | None = None) -> dict[str, Array] | None:
        nonlocal pace
        carry, parts, left = start, [], sum(len(weights) for _, weights in pieces)
        for number, (order, weights) in enumerate(pieces):
            piece, done = placed[number] if placed else arguments(order, weights), 0
            while done < len(weights):
                count = pace.count(len(weights) - done)
                given = (params, carry, *piece, np.int32(done), np.int32(count))
                if len(weights) not in compiled:
                    compiled[len(weights)] = compile_sums(*given)
                began = time.perf_counter()
                carry, sums = settle(compiled[len(weights)](*given))
                pace = pace.after(count, agreed_seconds(time.perf_counter() - began)) if pace.bound else pace
                parts.append(jax.tree.map(functools.partial(_first, count), sums))
                done, left = done + count, left - count
                if left and waits_for_calls() and stopped is not None and stopped():
                    return None
        return total_means(parts)

    return means


def _first(count: int, sums: Array) -> Array | np.ndarray:
    """Returns the sums of the first batches, ``[..., count]``; what is waited for is then on the host."""
    return np.asarray(sums)[..., :count] if waits_for_calls() else sums


def total_means(parts: Sequence[Any]) -> dict[str, Array]:
    """Returns the means of all metrics from the sums of batches, ``[..., steps]``, which may be in parts."""
    join = np.concatenate if waits_for_calls() else jnp.concatenate
    total = jax.tree.map(lambda *each: jnp.asarray(join(each, -1)).sum(-1), *parts)
    return {name: mean(value) for name, value in total.items()}


def evaluation_pieces(order: Order, weights: np.ndarray, at_a_time: int | None) -> list[tuple[Order, np.ndarray]]:
    """Returns the batches of an evaluation and their weights, some batches at a time; None takes a usual number."""
    count = at_a_time or _BATCHES_AT_A_TIME
    return [(order.part(first, count), weights[first : first + count]) for first in range(0, len(weights), count)]


def split_sums(task: Task) -> Callable[..., tuple[Any, Sums]]:
    """Returns ``(params, carry, batches, weights, bucket, first, count) -> (carry, sums)``: of each of some batches."""

    def sums(params: Any, carry: Any, batches: Any, weights: Array, bucket: Any, first: Any, count: Any) -> Any:
        def one(carry: Any, item: Any) -> tuple[Any, Sums]:
            batch, weight, bucket = item
            run = by_bucket(
                task.buckets, lambda carry, batch: evaluation_sums(task, BATCH, params, carry, batch, weight)
            )
            return run(carry, batch, bucket)

        return some_steps(one, carry, (batches, weights, bucket), first, count, len(weights))

    return sums


def scores(task: Task, params: Any, split: str) -> dict[str, float]:
    """Returns the task's own scores of a split, computed on one device; nothing where it has none."""
    return {} if task.score is None else task.score(jax.device_get(params), split)


_BATCHES_AT_A_TIME = 64
