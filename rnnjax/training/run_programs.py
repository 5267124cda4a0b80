"""The compiled programs of many runs at once: each run whole on one device, with runs on all devices."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from rnnjax.backend import runs_in_turn
from rnnjax.memory import program_that_fits
from rnnjax.parallel.mesh import BATCH
from rnnjax.tasks.task import Task
from rnnjax.training.batches import (
    EVERYWHERE,
    STEPS,
    Feed,
    Order,
    by_bucket,
    device_feed,
    epoch_orders,
    evaluation_order,
    host_feed,
    place,
)
from rnnjax.training.program import Evaluate, Sent, evaluation_pieces, in_pieces, settle, split_sums
from rnnjax.training.state import TrainState
from rnnjax.training.step import Sums, train_step
from rnnjax.training.stepping import some_steps

RUNS = "runs"
_EACH = PartitionSpec(RUNS)  # [runs, ...]
_EACH_STEPS = PartitionSpec(RUNS, None, BATCH)  # [runs, steps, batch, ...]
_EACH_CARRY = PartitionSpec(RUNS, BATCH)  # [runs, batch, ...]
_SPECS: Any = (_EACH, _EACH, _EACH, _EACH_CARRY, _EACH)
STATES = TrainState(*_SPECS)

Traced = Mapping[str, Float[Array | np.ndarray, " R"]]  # values of the optimiser's fields that differ between runs


def runs_mesh(runs: int) -> Mesh:
    """Returns a mesh of as many devices here as there are runs for: `runs` over all of them, `batch` of size 1."""
    devices = jax.local_devices()[:runs]
    axes = {"axis_types": (AxisType.Auto, AxisType.Auto), "devices": devices}
    return jax.make_mesh((len(devices), 1), (RUNS, BATCH), **axes)


def filled(mesh: Mesh, runs: int) -> Int[np.ndarray, " filled"]:
    """Returns the runs, with the last again until they divide by the devices; what comes of those is left out."""
    count = -(-runs // mesh.size) * mesh.size
    return np.minimum(np.arange(count), runs - 1)


def stack(states: Sequence[Any]) -> Any:
    """Returns pytrees of the same structure as one, with a leading axis for their number."""
    return jax.jit(lambda *states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))(*states)


def place_states(mesh: Mesh, states: TrainState, rows: Int[np.ndarray, " R"]) -> TrainState:
    """Returns the states of the runs `filled` on the devices, from those of all runs."""
    if len(rows) > len(states.step):
        states = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[rows], states))(states)
    return jax.device_put(states, jax.tree.map(lambda spec: NamedSharding(mesh, spec), STATES))


def first_states(mesh: Mesh, runs: int) -> Callable[[TrainState], TrainState]:
    """Returns a function that copies the states of the first `runs` runs to every device."""
    everywhere = NamedSharding(mesh, EVERYWHERE)
    copy = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[:runs], states), out_shardings=everywhere)
    return lambda states: settle(copy(states))


def runs_feed(mesh: Mesh, task: Task, *, resident: bool) -> Feed:
    """Returns a feed for orders of many runs, ``rows [runs, steps, B]``, which share the training split."""
    split = task.data.splits["train"]
    if resident:
        return device_feed(mesh, split)._replace(batches=lambda order: place(mesh, _EACH_STEPS, order.rows))

    def batches(order: Order) -> Any:
        rows = np.asarray(order.rows)
        return place(mesh, _EACH_STEPS, {name: values[rows] for name, values in split.items()})

    return host_feed(mesh, split)._replace(batches=batches)


def runs_orders(mesh: Mesh, task: Task, seeds: Sequence[int], batch_size: int) -> Callable[[int], Order]:
    """Returns a function of the epoch: the batches of every run, ``rows [runs, steps, B]``, as its seed has them."""

    @jax.jit
    def orders(seeds: Array, epoch: Array) -> Order:
        def one(seed: Any) -> Order:
            # Without the cache of the last epoch, which takes plain numbers only.
            return epoch_orders(mesh, task, seed, batch_size).__wrapped__(epoch)  # pyright: ignore

        return jax.lax.map(one, seeds)

    of_runs = np.array(seeds, np.uint32)
    return functools.lru_cache(1)(lambda epoch: orders(of_runs, epoch))


def each_run(task: Task, one: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of one run for a stack of runs: all at once, or one after the other where that is faster.

    It is on a CPU, where XLA is slow at small products of many runs in one, and with buckets, of which runs at once
    would have to go through all.
    """
    if runs_in_turn() or task.buckets is not None:
        return lambda *stacked: jax.lax.map(lambda run: one(*run), stacked)
    return jax.vmap(one)


class RunsProgram:
    """Training steps of many runs compiled to one call, which takes any number of them.

    Args:
      task: the task of all runs.
      optimizer: returns a run's optimiser from its values of the traced fields.
      mesh: `runs_mesh`.
      feed: `runs_feed`.
      traced: the values for every run, as many as `filled`.
      most: steps that a call has at most.

    Attributes:
      compile_seconds: time spent on tracing and compiling so far.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Callable[[Traced], optax.GradientTransformation],
        mesh: Mesh,
        feed: Feed,
        traced: Traced,
        most: int,
    ):
        self.compile_seconds = 0.0
        self._mesh, self._most, self._traced = mesh, most, place(mesh, _EACH, dict(traced))
        self._sent = Sent(mesh, feed, _EACH, axis=1)
        self._compiled: dict[int, Callable] = {}

        def steps(
            traced: Traced, states: TrainState, resident: Any, batches: Any, bucket: Any, first: Any, count: Any
        ) -> Any:
            def run(traced: Traced, state: TrainState, batches: Any, bucket: Any) -> Any:
                step = by_bucket(task.buckets, functools.partial(train_step, task, optimizer(traced), BATCH))

                def one(state: TrainState, item: Any) -> tuple[TrainState, dict[str, Array]]:
                    return step(state, feed.fetch(resident, item[0]), item[1])

                return some_steps(one, state, (batches, bucket), first, count, most)

            return each_run(task, run)(traced, states, batches, bucket)

        in_specs = (_EACH, STATES, EVERYWHERE, _EACH_STEPS, _EACH, EVERYWHERE, EVERYWHERE)
        specs = {"in_specs": in_specs, "out_specs": (STATES, _EACH)}
        self._steps = jax.jit(jax.shard_map(steps, mesh=mesh, **specs), donate_argnums=1)

    def __call__(self, states: TrainState, order: Order, first: int, count: int) -> tuple[TrainState, dict[str, Array]]:
        """Takes a step of every run for `count` batches of its order; returns the states and metrics ``[runs, most]``.

        Returns before the devices are done. `states` is donated: it cannot be used again.
        """
        resident, batches, bucket, first = self._sent(order, first, count, self._most)
        arguments = (self._traced, states, resident, batches, bucket, np.int32(first), np.int32(count))
        size = self._sent.size
        if size not in self._compiled:
            started = time.perf_counter()
            self._compiled[size] = program_that_fits(self._steps.lower(*arguments).compile(), self._mesh.size)
            self.compile_seconds += time.perf_counter() - started
        return settle(self._compiled[size](*arguments))

    def best_count(self, count: int) -> int:
        """Returns how many of `count` steps are best taken in one call."""
        return self._sent.best_count(count, self._most)


def runs_evaluator(
    task: Task, mesh: Mesh, split: str, batch_size: int, runs: int, *, resident: bool, call_seconds: float = 0.0
) -> Evaluate:
    """Returns, as `rnnjax.training.program.evaluator`, a function of the parameters of `runs` runs.

    The means of all metrics over the split are ``[runs]``.
    """
    order, weights = evaluation_order(task, split, batch_size)
    send = host_feed(mesh, task.data.splits[split]).batches
    sums_of_run = split_sums(task)

    def arguments(order: Order, weights: np.ndarray) -> Any:
        return send(order), place(mesh, STEPS, weights), place(mesh, EVERYWHERE, order.bucket)

    def sums(params: Any, carry: Any, *given: Any) -> tuple[Any, Sums]:
        return each_run(task, lambda params, carry: sums_of_run(params, carry, *given))(params, carry)

    in_specs = (_EACH, _EACH_CARRY, STEPS, STEPS, EVERYWHERE, EVERYWHERE, EVERYWHERE)
    specs = {"in_specs": in_specs, "out_specs": (_EACH_CARRY, _EACH)}
    mapped = jax.jit(jax.shard_map(sums, mesh=mesh, **specs))
    start = place(mesh, _EACH_CARRY, jax.tree.map(lambda leaf: np.broadcast_to(leaf, (runs, *leaf.shape)), task.carry))
    pieces = evaluation_pieces(order, weights, len(weights) if resident else None)

    def compile_sums(*given: Any) -> Callable:
        return mapped.lower(*given).compile()

    return in_pieces(pieces, arguments, compile_sums, start, call_seconds, resident=resident)
