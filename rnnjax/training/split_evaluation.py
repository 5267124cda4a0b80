"""The evaluation of a split: the means of all metrics over all of its examples."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from rnnjax.backend import waits_for_calls
from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import EVERYWHERE, filled_batch, padded_runs, place
from rnnjax.tasks.task import Sums, Task, mean
from rnnjax.training.batches import EACH_RUN, STEPS, Order, evaluation_order, sent
from rnnjax.training.pace import Pace
from rnnjax.training.program import by_bucket, each_run, settle, some_steps
from rnnjax.training.step import STATES, evaluation_sums

_BATCHES_IN_A_PIECE = 64

Piece = tuple[Order, Float[np.ndarray, "_ B"]]  # some batches of a split, and the weights of their examples


class Evaluator:
    """Evaluates the parameters of runs on a split, every example counted once, in calls of bounded duration.

    Calls are bounded only if they are waited for; otherwise many have been made before one has been measured.

    Args:
      task: the task of all runs.
      mesh: the devices.
      split: name of the split.
      batch_size: examples evaluated at a time.
      resident: whether the split stays on the devices; otherwise some batches are sent at a time.
      runs: number of runs.
      map: "shard_map" or "pmap".
      call_seconds: about how many seconds a call may take; 0 for no limit.
    """

    def __init__(
        self,
        task: Task,
        mesh: Mesh,
        split: str,
        batch_size: int,
        *,
        resident: bool,
        runs: int = 1,
        map: str = "shard_map",
        call_seconds: float = 0.0,
    ):
        self._mesh, self._split = mesh, task.data.splits[split]
        order, weights = evaluation_order(task, split, filled_batch(mesh, batch_size))
        self._pieces = pieces(order, weights, len(weights) if resident else _BATCHES_IN_A_PIECE)
        self._placed = [self._place(piece) for piece in self._pieces] if resident else None
        # Every run begins with the same one.
        padded = len(padded_runs(mesh, runs))
        carries = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (padded, *leaf.shape)), task.carry)
        self._carry = place(mesh, STATES.carry, carries)
        in_specs = (EACH_RUN, STATES.carry, STEPS, STEPS, EVERYWHERE, EVERYWHERE, EVERYWHERE)
        self._compile = map_over_devices(split_sums(task), mesh, in_specs, (STATES.carry, EACH_RUN), map=map)
        self._programs: dict[int, Callable] = {}  # by the number of batches in a piece: the last may have fewer
        self._pace = Pace(call_seconds if waits_for_calls() else 0.0)

    def _place(self, piece: Piece) -> tuple[Any, Any, Any]:
        """Places a piece on the devices: its batches, the weights of their examples, and the bucket of each batch."""
        order, weights = piece
        batches = sent(self._mesh, STEPS, self._split, order)
        return batches, place(self._mesh, STEPS, weights), place(self._mesh, EVERYWHERE, order.bucket)

    def __call__(
        self, params: Any, stopped: Callable[[], Any] | None = None
    ) -> dict[str, Float[Array, " runs"]] | None:
        """Evaluates all runs.

        Args:
          params: of every run, each leaf ``[runs, ...]``.
          stopped: asked between two calls.

        Returns:
          the means of all metrics; None if `stopped()` was true.
        """
        carry, sums = self._carry, []
        remaining = sum(len(weights) for _, weights in self._pieces)
        for number, (_, weights) in enumerate(self._pieces):
            piece = self._place(self._pieces[number]) if self._placed is None else self._placed[number]
            done = 0
            while done < len(weights):
                count = self._pace.count(len(weights) - done)
                carry, call_sums = self._call(len(weights), count, (params, carry, *piece, np.int32(done)))
                sums.append(call_sums)
                done += count
                remaining -= count
                if remaining and waits_for_calls() and stopped is not None and stopped():
                    return None
        return total_means(sums)

    def of_only_run(self, params: Any) -> dict[str, float]:
        """Returns the means of all metrics for the parameters of one run, without an axis of runs."""
        means = self(jax.tree.map(lambda leaf: leaf[None], params)) or {}
        return {name: float(value[0]) for name, value in means.items()}

    def _call(self, size: int, count: int, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        """Returns the carry and the sums of the metrics after `count` batches of a piece that has `size`."""
        arguments = (*arguments, np.int32(count))
        if size not in self._programs:
            self._programs[size] = self._compile(*arguments)
        started = time.perf_counter()
        carry, sums = settle(self._programs[size](*arguments))
        if self._pace.bound:
            self._pace = self._pace.after(count, time.perf_counter() - started)
        return carry, jax.tree.map(functools.partial(_first, count), sums)


def pieces(order: Order, weights: Float[np.ndarray, "steps B"], size: int) -> list[Piece]:
    """Returns the batches of an evaluation cut into pieces of `size` batches."""

    def piece(first: int) -> Piece:
        return jax.tree.map(lambda leaf: leaf[first : first + size], (order, weights))

    return [piece(first) for first in range(0, len(weights), size)]


def split_sums(task: Task) -> Callable[..., tuple[Any, Sums]]:
    """Returns a function from parameters, carry, a piece and the number of its first batch to the sums of each batch.

    It is ``(params, carry, batches, weights, bucket, first, count) -> (carry, sums)``; parameters, carry and sums are
    those of every run.
    """

    def sums(params: Any, carry: Any, batches: Any, weights: Array, bucket: Any, first: Any, count: Any) -> Any:
        def of_run(params: Any, carry: Any) -> Any:
            def step(carry: Any, item: Any) -> tuple[Any, Sums]:
                batch, weight, bucket = item
                evaluate_batch = by_bucket(
                    task.buckets, lambda carry, batch: evaluation_sums(task, params, carry, batch, weight)
                )
                return evaluate_batch(carry, batch, bucket)

            return some_steps(step, carry, (batches, weights, bucket), first, count, len(weights))

        return each_run(task.buckets, of_run)(params, carry)

    return sums


def _first(count: int, sums: Array) -> Array | np.ndarray:
    """Returns the sums of the first `count` batches, ``[runs, count]``, on the host if calls are waited for."""
    return np.asarray(sums)[..., :count] if waits_for_calls() else sums


def total_means(sums: Sequence[Any]) -> dict[str, Float[Array, " runs"]]:
    """Returns the means of all metrics.

    Args:
      sums: from one call each, the sums of every metric and of its weights over each batch, ``[runs, batches]``.
    """
    concatenate = np.concatenate if waits_for_calls() else jnp.concatenate
    totals = jax.tree.map(lambda *each: jnp.asarray(concatenate(each, -1)).sum(-1), *sums)
    return {name: mean(*total) for name, total in totals.items()}
