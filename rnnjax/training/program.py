"""Training steps of runs that are trained together, many in one compiled call; a run by itself is one of them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rnnjax.backend import runs_in_turn, waits_for_calls
from rnnjax.memory import program_that_fits
from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import EVERYWHERE
from rnnjax.tasks.task import Batch, Buckets, Task
from rnnjax.training.batches import CALL_INPUTS, EACH_RUN, CallInputs, Feed, Order, Traced
from rnnjax.training.profile import Profile
from rnnjax.training.step import STATES, TrainState, train_step
from rnnjax.unrolling.varying import vary

Count = int | Int[Array, ""]  # of steps; a Python int is compiled into the program


def settle(results: Any) -> Any:
    """Returns results, after waiting for them if this kind of device needs that."""
    return jax.block_until_ready(results) if waits_for_calls() else results


class TrainProgram:
    """Training steps of every run compiled to one call, which takes any number of them.

    Args:
      task: the task of all runs.
      optimizer: returns a run's optimiser from its values of the traced fields.
      mesh: the devices.
      feed: how batches reach them.
      map: "shard_map" or "pmap".
      most: most steps in a call; None for as many as the order has batches.
      known: whether the number of steps is compiled into the program, so that there is a program for each number.

    Attributes:
      compile_seconds: time spent on tracing and compiling so far.
      input_seconds: time that the host has spent on gathering and sending batches so far.
      ready: when the first step could begin, by `time.perf_counter`.
      profile: makes the calls, and may trace one.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Callable[[Traced], optax.GradientTransformation],
        mesh: Mesh,
        feed: Feed,
        *,
        map: str = "shard_map",
        most: int | None = None,
        known: bool = False,
    ):
        self.compile_seconds = self.input_seconds = self.ready = 0.0
        self.profile = Profile()
        self._task, self._optimizer, self._feed = task, optimizer, feed
        self._mesh, self._map = mesh, map
        self._most, self._known = most, known
        self._programs: dict[Any, Callable] = {}

    def __call__(
        self, states: TrainState, order: Order, first: int = 0, count: int | None = None
    ) -> tuple[TrainState, dict[str, Float[Array, "runs most"]]]:
        """Takes `count` steps of every run, and returns before the devices have computed them.

        Args:
          states: of all runs; they are donated, and cannot be used again.
          order: batches of all runs, of which each step takes one a run.
          first: number of the first step's batch.
          count: number of steps; None takes all batches of the order.

        Returns:
          the states after the last step, and the metrics of each step, zeros from `count` on.
        """
        steps_in_order = order.rows.shape[1]
        most, count = self._most or steps_in_order, int(steps_in_order if count is None else count)
        started = time.perf_counter()
        inputs, first = self._feed(order, first, count, most)
        numbers = (np.int32(first),) if self._known else (np.int32(first), np.int32(count))
        self.input_seconds += time.perf_counter() - started
        known_count = count if self._known else None
        # Of what a program is compiled for; shapes of everything else stay the same in a run.
        key = (most, known_count, jax.tree.leaves(inputs.batches)[0].shape)
        if key not in self._programs:
            started = time.perf_counter()
            self._programs[key] = self._compiled(most, known_count, (states, inputs, *numbers))
            self.compile_seconds += time.perf_counter() - started
        # That of the first call, also in all later ones.
        self.ready = self.ready or time.perf_counter()
        return settle(self.profile(self._programs[key], states, inputs, *numbers))

    def _compiled(self, most: int, known_count: int | None, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        """Returns the program of a call with such arguments.

        Args:
          most: most steps in a call.
          known_count: number of steps, if it is compiled into the program.
          arguments: of the call.
        """
        specs = (STATES, CALL_INPUTS, *[EVERYWHERE] * len(arguments[2:]))
        steps = self._steps(most, known_count)
        compile_for = map_over_devices(steps, self._mesh, specs, (STATES, EACH_RUN), map=self._map, donate=[0])
        return program_that_fits(compile_for(*arguments), self._mesh.size)

    def _steps(self, most: int, known_count: int | None) -> Callable[..., Any]:
        """Returns what one device computes in a call: steps of its runs, on its parts of their batches."""
        task, feed = self._task, self._feed

        def steps(states: TrainState, inputs: CallInputs, first: Count, count: Any = known_count) -> Any:
            def of_run(state: TrainState, traced: Traced, batches: Any, bucket: Any) -> Any:
                optimizer = self._optimizer(traced)
                step_of_batch = by_bucket(
                    task.buckets, lambda state, batch: train_step(task, optimizer, state, batch, inputs.weight)
                )

                def step(state: TrainState, item: Any) -> Any:
                    batch, bucket = item
                    return step_of_batch(state, feed.fetch(inputs.resident, batch), bucket)

                return some_steps(step, state, (batches, bucket), first, count, most)

            return each_run(task.buckets, of_run)(states, inputs.traced, inputs.batches, inputs.bucket)

        return steps

    def best_count(self, count: int) -> int:
        """Returns how many of the next `count` steps one call should take."""
        return self._feed.best_count(count, self._most or count)


def each_run(buckets: Buckets | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function of one run over the runs of a device: all at once, or one after another where that is faster.

    One after another is faster on a CPU, where XLA is slow at batched products of small matrices, and with buckets,
    since runs computed at once would each be computed for every bucket. A single run is not mapped.
    """

    def of_runs(*stacked: Any) -> Any:
        if len(jax.tree.leaves(stacked)[0]) == 1:
            results = function(*jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), stacked))
            return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), results)
        if runs_in_turn() or buckets is not None:
            return jax.lax.map(lambda run: function(*run), stacked)
        return jax.vmap(function)(*stacked)

    return of_runs


def by_bucket(buckets: Buckets | None, function: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch, Any], Any]:
    """Returns ``(state, batch, bucket) -> function(state, batch)``, with the batch cut to the widths of the bucket."""
    if buckets is None:
        return lambda state, batch, bucket: function(state, batch)

    def cut_to(widths: Any) -> Callable[[Any, Batch], Any]:
        def branch(state: Any, batch: Batch) -> Any:
            cut = {name: batch[name][:, :width] for name, width in widths.items()}
            return function(state, batch | cut)

        return branch

    branches = [cut_to(widths) for widths in buckets.widths]
    return lambda state, batch, bucket: jax.lax.switch(bucket, branches, state, batch)


def some_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, items: Any, first: Count, count: Count, most: int
) -> tuple[Any, Any]:
    """Does what `jax.lax.scan` does over ``items[first : first + count]``.

    One program serves all calls, and computes a step in the same way in all of them, so that results do not depend on
    where one call ends and the next begins.

    Args:
      step: ``step(carry, item) -> (carry, output)``.
      carry: before the first step.
      items: a pytree of arrays ``[N, ...]``.
      first: number of the first item.
      count: number of steps.
      most: number that `count` never exceeds.

    Returns:
      the carry after the last step, and the outputs ``[most, ...]`` of the steps, zeros from `count` on.
    """

    def item(number: Count) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), items)

    def body(number: Array, loop_state: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, outputs = loop_state
        carry, output = step(carry, item(first + number))
        return carry, jax.tree.map(lambda stacked, new: stacked.at[number].set(new), outputs, output)

    shapes = jax.eval_shape(lambda carry: step(carry, item(first))[1], carry)
    zeros = jax.tree.map(functools.partial(_zeros, most), shapes)
    return jax.lax.fori_loop(0, count, body, (carry, zeros))


def _zeros(most: int, like: jax.ShapeDtypeStruct) -> Array:
    """Returns zeros ``[most, ...]`` that vary over the same mesh axes as the array that `like` describes."""
    zeros = jnp.zeros((most, *like.shape), like.dtype)
    axes = like.manual_axis_type
    return zeros if axes is None else vary(zeros, axes.varying)
