"""The compiled programs of many runs that are trained together: each run on one device, the runs over all devices."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree, Shaped

from rnnjax.backend import runs_in_turn
from rnnjax.memory import program_that_fits
from rnnjax.parallel.mapping import map_over_devices
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
from rnnjax.training.program import CallInputs, settle
from rnnjax.training.split_evaluation import (
    Evaluate,
    PiecewiseEvaluation,
    evaluation_pieces,
    piece_placer,
    split_sums,
)
from rnnjax.training.state import TrainState
from rnnjax.training.step import Sums, train_step
from rnnjax.training.stepping import some_steps

RUNS = "runs"
_EACH = PartitionSpec(RUNS)  # [runs, ...]
_EACH_STEPS = PartitionSpec(RUNS, None, BATCH)  # [runs, steps, batch, ...]
_EACH_CARRY = PartitionSpec(RUNS, BATCH)  # [runs, batch, ...]
_SPECS: Any = (_EACH, _EACH, _EACH, _EACH_CARRY, _EACH)
STATES = TrainState(*_SPECS)

Traced = Mapping[str, Float[Array | np.ndarray, " runs"]]  # values of the optimiser's fields that differ between runs


def runs_mesh(runs: int) -> Mesh:
    """Returns a mesh of this process's devices, at most one per run: axis `runs` over all, axis `batch` of size one."""
    devices = jax.local_devices()[:runs]
    axes = {"axis_types": (AxisType.Auto, AxisType.Auto), "devices": devices}
    return jax.make_mesh((len(devices), 1), (RUNS, BATCH), **axes)


def padded_runs(mesh: Mesh, runs: int) -> Int[np.ndarray, " padded"]:
    """Returns the numbers of the runs, the last repeated until they divide over the devices; copies are discarded."""
    count = math.ceil(runs / mesh.size) * mesh.size
    # All devices compute the same number of runs.
    return np.minimum(np.arange(count), runs - 1)


def stack(states: Sequence[PyTree[Shaped[Array, "..."]]]) -> PyTree[Shaped[Array, "runs ..."]]:
    """Returns pytrees of the same structure stacked along a new leading axis."""
    return jax.jit(lambda *states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))(*states)


def place_states(mesh: Mesh, states: TrainState, runs: Int[np.ndarray, " padded"]) -> TrainState:
    """Returns the states of the runs, numbered as by `padded_runs`, on the devices."""
    # Without padding the states are the runs, and need no gathering.
    if len(runs) > len(states.step):
        states = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[runs], states))(states)
    return jax.device_put(states, jax.tree.map(lambda spec: NamedSharding(mesh, spec), STATES))


def first_states(mesh: Mesh, runs: int) -> Callable[[TrainState], TrainState]:
    """Returns a function that copies the states of the first `runs` runs, without padding, to every device."""
    everywhere = NamedSharding(mesh, EVERYWHERE)
    copy = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[:runs], states), out_shardings=everywhere)
    return lambda states: settle(copy(states))


def runs_feed(mesh: Mesh, task: Task, *, resident: bool) -> Feed:
    """Returns a feed for the orders of many runs, ``rows [runs, steps, B]``, which share the training split."""
    split = task.data.splits["train"]
    if resident:
        return device_feed(mesh, split)._replace(batches=lambda order: place(mesh, _EACH_STEPS, order.rows))

    def batches(order: Order) -> Any:
        rows = np.asarray(order.rows)
        return place(mesh, _EACH_STEPS, {name: values[rows] for name, values in split.items()})

    return host_feed(mesh, split)._replace(batches=batches)


def runs_orders(mesh: Mesh, task: Task, seeds: Sequence[int], batch_size: int) -> Callable[[int], Order]:
    """Returns a function from the epoch to the batches of every run, ``rows [runs, steps, B]``.

    Args:
      mesh: the devices.
      task: the task.
      seeds: of every run; each has the same batches as a run of its own.
      batch_size: examples in a batch.
    """

    @jax.jit
    def orders(seeds: Array, epoch: Array) -> Order:
        def of_seed(seed: Any) -> Order:
            # Not through the cache of the last epoch, which takes no traced numbers.
            return epoch_orders(mesh, task, seed, batch_size).__wrapped__(epoch)  # pyright: ignore

        return jax.lax.map(of_seed, seeds)

    seed_array = np.array(seeds, np.uint32)
    return functools.lru_cache(1)(lambda epoch: orders(seed_array, epoch))


def each_run(task: Task, function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function of one run over a stack of runs: all at once, or one after another where that is faster.

    One after another is faster on a CPU, where XLA is slow at batched products of small matrices, and with buckets,
    since runs computed at once would each be computed for every bucket.
    """
    if runs_in_turn() or task.buckets is not None:
        return lambda *stacked: jax.lax.map(lambda run: function(*run), stacked)
    return jax.vmap(function)


class RunsProgram:
    """Training steps of many runs compiled to one call, which takes any number of them.

    Args:
      task: the task of all runs.
      optimizer: returns a run's optimiser from its values of the traced fields.
      mesh: the devices, as `runs_mesh` returns them.
      feed: how batches reach them, as `runs_feed` returns it.
      traced: the values for every run, those for padding included.
      most: most steps in a call.

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
        # Behind the axis of runs.
        self._inputs = CallInputs(mesh, feed, _EACH, axis=1)
        self._programs: dict[int, Callable] = {}

        def steps(
            traced: Traced, states: TrainState, resident: Any, batches: Any, bucket: Any, first: Any, count: Any
        ) -> Any:
            def run(traced: Traced, state: TrainState, batches: Any, bucket: Any) -> Any:
                # The axis of the batch has one device, so that a run's step is that of a run of its own.
                step_of_batch = by_bucket(task.buckets, functools.partial(train_step, task, optimizer(traced), BATCH))

                def step(state: TrainState, item: Any) -> Any:
                    batch, bucket = item
                    return step_of_batch(state, feed.fetch(resident, batch), bucket)

                return some_steps(step, state, (batches, bucket), first, count, most)

            return each_run(task, run)(traced, states, batches, bucket)

        in_specs = (_EACH, STATES, EVERYWHERE, _EACH_STEPS, _EACH, EVERYWHERE, EVERYWHERE)
        self._compile = map_over_devices(steps, mesh, in_specs, (STATES, _EACH), donate=[1])

    def __call__(
        self, states: TrainState, order: Order, first: int, count: int
    ) -> tuple[TrainState, dict[str, Float[Array, "runs most"]]]:
        """Takes `count` steps of every run, and returns before the devices have computed them.

        Args:
          states: of all runs; they are donated, and cannot be used again.
          order: batches of all runs, of which each step takes one a run.
          first: number of the first step's batch.
          count: number of steps.

        Returns:
          the states after the last step, and the metrics of each step, zeros from `count` on.
        """
        resident, batches, bucket, first = self._inputs(order, first, count, self._most)
        arguments = (self._traced, states, resident, batches, bucket, np.int32(first), np.int32(count))
        size = self._inputs.size
        if size not in self._programs:
            started = time.perf_counter()
            self._programs[size] = program_that_fits(self._compile(*arguments), self._mesh.size)
            self.compile_seconds += time.perf_counter() - started
        return settle(self._programs[size](*arguments))

    def best_count(self, count: int) -> int:
        """Returns how many of the next `count` steps one call should take."""
        return self._inputs.best_count(count, self._most)


def runs_evaluator(
    task: Task, mesh: Mesh, split: str, batch_size: int, runs: int, *, resident: bool, call_seconds: float = 0.0
) -> Evaluate:
    """Returns a function from the parameters of many runs to the means ``[runs]`` of all metrics over a split.

    Args:
      task: the task.
      mesh: the devices, as `runs_mesh` returns them.
      split: name of the split.
      batch_size: examples evaluated at a time.
      runs: number of runs, padding included.
      resident: whether the split stays on the devices; otherwise some batches are sent at a time.
      call_seconds: about how many seconds a call may take, if calls are waited for; 0 for no limit.
    """
    sums_of_run = split_sums(task)

    def sums(params: Any, carry: Any, *batches: Any) -> tuple[Any, Sums]:
        return each_run(task, lambda params, carry: sums_of_run(params, carry, *batches))(params, carry)

    in_specs = (_EACH, _EACH_CARRY, STEPS, STEPS, EVERYWHERE, EVERYWHERE, EVERYWHERE)
    compile_sums = map_over_devices(sums, mesh, in_specs, (_EACH_CARRY, _EACH))
    order, weights = evaluation_order(task, split, batch_size)
    pieces = evaluation_pieces(order, weights, len(weights) if resident else None)
    # Every run begins with the same state.
    carries = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (runs, *leaf.shape)), task.carry)
    carries = place(mesh, _EACH_CARRY, carries)
    return PiecewiseEvaluation(
        pieces, piece_placer(task, mesh, split), compile_sums, carries, call_seconds, resident=resident
    )
