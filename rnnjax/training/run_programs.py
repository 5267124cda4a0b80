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
from rnnjax.training.program import evaluation_pieces, settle, split_sums
from rnnjax.training.state import TrainState
from rnnjax.training.step import Sums, mean, train_step

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


def part(order: Order, first: int, count: int) -> Order:
    """Returns `count` batches of every run from the batch `first`."""
    if (first, count) == (0, order.rows.shape[1]):
        return order
    return jax.tree.map(lambda leaf: leaf[:, first : first + count], order)


def each_run(task: Task, one: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of one run for a stack of runs: all at once, or one after the other where that is faster.

    It is on a CPU, where XLA is slow at small products of many runs in one, and with buckets, of which runs at once
    would have to go through all.
    """
    if jax.default_backend() == "cpu" or task.buckets is not None:
        return lambda *stacked: jax.lax.map(lambda run: one(*run), stacked)
    return jax.vmap(one)


class RunsProgram:
    """Training steps of many runs compiled to one call, once for each number of steps in a call.

    Args:
      task: the task of all runs.
      optimizer: returns a run's optimiser from its values of the traced fields.
      mesh: `runs_mesh`.
      feed: `runs_feed`.
      traced: the values for every run, as many as `filled`.

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
    ):
        self.compile_seconds = 0.0
        self._mesh, self._feed, self._traced = mesh, feed, place(mesh, _EACH, dict(traced))
        self._compiled: dict[int, Callable] = {}

        def steps(traced: Traced, states: TrainState, resident: Any, batches: Any, bucket: Any) -> Any:
            def run(traced: Traced, state: TrainState, batches: Any, bucket: Any) -> Any:
                step = by_bucket(task.buckets, functools.partial(train_step, task, optimizer(traced), BATCH))

                def one(state: TrainState, item: Any) -> tuple[TrainState, dict[str, Array]]:
                    return step(state, feed.fetch(resident, item[0]), item[1])

                return jax.lax.scan(one, state, (batches, bucket))

            return each_run(task, run)(traced, states, batches, bucket)

        specs = {"in_specs": (_EACH, STATES, EVERYWHERE, _EACH_STEPS, _EACH), "out_specs": (STATES, _EACH)}
        self._steps = jax.jit(jax.shard_map(steps, mesh=mesh, **specs), donate_argnums=1)

    def __call__(self, states: TrainState, order: Order) -> tuple[TrainState, dict[str, Array]]:
        """Takes a step of every run for every batch of its order; returns the states and metrics ``[runs, steps]``.

        Returns before the devices are done. `states` is donated: it cannot be used again.
        """
        arguments = (
            self._traced,
            states,
            self._feed.resident,
            self._feed.batches(order),
            place(self._mesh, _EACH, order.bucket),
        )
        count = order.rows.shape[1]
        if count not in self._compiled:
            started = time.perf_counter()
            self._compiled[count] = program_that_fits(self._steps.lower(*arguments).compile(), self._mesh.size)
            self.compile_seconds += time.perf_counter() - started
        return settle(self._compiled[count](*arguments))


def runs_evaluator(
    task: Task, mesh: Mesh, split: str, batch_size: int, runs: int, *, resident: bool
) -> Callable[[Any], dict[str, Float[Array, " runs"]]]:
    """Returns a function of the parameters of `runs` runs: for each, the means of all metrics over the split."""
    order, weights = evaluation_order(task, split, batch_size)
    send = host_feed(mesh, task.data.splits[split]).batches
    pieces = evaluation_pieces(order, weights, len(weights) if resident else None)
    sums_of_run = split_sums(task)

    def arguments(order: Order, weights: np.ndarray) -> Any:
        return send(order), place(mesh, STEPS, weights), place(mesh, EVERYWHERE, order.bucket)

    def sums(params: Any, carry: Any, batches: Any, weights: Array, bucket: Any) -> tuple[Any, Sums]:
        return each_run(task, lambda params, carry: sums_of_run(params, carry, batches, weights, bucket))(params, carry)

    specs = {"in_specs": (_EACH, _EACH_CARRY, STEPS, STEPS, EVERYWHERE), "out_specs": (_EACH_CARRY, _EACH)}
    mapped = jax.jit(jax.shard_map(sums, mesh=mesh, **specs))
    start = place(mesh, _EACH_CARRY, jax.tree.map(lambda leaf: np.broadcast_to(leaf, (runs, *leaf.shape)), task.carry))
    placed = [arguments(*pieces[0])] if resident else None

    def means(params: Any) -> dict[str, Array]:
        carry, totals = start, []
        for piece in placed or (arguments(*piece) for piece in pieces):
            carry, total = settle(mapped(params, carry, *piece))
            totals.append(total)
        total = jax.tree.map(lambda *parts: sum(parts), *totals)
        return {name: mean(value) for name, value in total.items()}

    return means
