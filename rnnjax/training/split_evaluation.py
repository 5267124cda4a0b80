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
from rnnjax.parallel.mesh import BATCH, filled_batch
from rnnjax.parallel.splitting import splitting
from rnnjax.tasks.task import Task
from rnnjax.training.batches import EVERYWHERE, STEPS, Order, by_bucket, evaluation_order, host_feed, place
from rnnjax.training.pace import Pace
from rnnjax.training.program import SPLIT, longest_of_processes, settle
from rnnjax.training.step import Sums, evaluation_sums, mean
from rnnjax.training.stepping import some_steps

_BATCHES_IN_A_PIECE = 64


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
    """Returns a function from parameters to the means of all metrics over a split, every example counted once.

    Args:
      task: the task.
      mesh: the devices.
      split: name of the split.
      batch_size: examples evaluated at a time.
      resident: whether the split stays on the devices; otherwise some batches are sent at a time.
      map: "shard_map" or "pmap".
      call_seconds: about how many seconds a call may take, if calls are waited for; 0 for no limit.
    """
    in_specs = (EVERYWHERE, SPLIT, STEPS, STEPS, EVERYWHERE, EVERYWHERE, EVERYWHERE)
    sums = splitting(split_sums(task), mesh)
    compile_sums = map_over_devices(sums, mesh, in_specs, (SPLIT, EVERYWHERE), map=map)
    order, weights = evaluation_order(task, split, filled_batch(mesh, batch_size))
    pieces = evaluation_pieces(order, weights, len(weights) if resident else None)
    carry = place(mesh, SPLIT, task.carry)
    return PiecewiseEvaluation(
        pieces, piece_placer(task, mesh, split), compile_sums, carry, call_seconds, resident=resident
    )


Evaluate = Callable[..., Any]
"""``(params, stopped=None)``: the means of all metrics, or None if `stopped()` was true between two of its calls."""

Piece = tuple[Order, Float[np.ndarray, "_ B"]]  # some batches of an evaluation, and the weights of their examples


def piece_placer(task: Task, mesh: Mesh, split: str) -> Callable[[Piece], tuple[Any, Any, Any]]:
    """Returns a function that places a piece of a split on the devices: its batches, their weights, their buckets."""
    send = host_feed(mesh, task.data.splits[split]).batches

    def placed(piece: Piece) -> tuple[Any, Any, Any]:
        order, weights = piece
        return send(order), place(mesh, STEPS, weights), place(mesh, EVERYWHERE, order.bucket)

    return placed


class PiecewiseEvaluation:
    """Evaluates a split piece by piece, each piece in calls of bounded duration.

    Calls are bounded only if they are waited for; otherwise many have been made before one has been measured.

    Args:
      pieces: the batches of the split.
      place_piece: places a piece on the devices.
      compile_sums: compiles ``(params, carry, *placed piece, first, count) -> (carry, sums)``.
      carry: recurrent state before the first batch.
      call_seconds: about how many seconds a call may take; 0 for no limit.
      resident: whether all pieces stay on the devices; otherwise each is placed whenever it is evaluated.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        place_piece: Callable[[Piece], tuple[Any, Any, Any]],
        compile_sums: Callable[..., Callable],
        carry: Any,
        call_seconds: float,
        *,
        resident: bool,
    ):
        self._pieces, self._place = pieces, place_piece
        self._placed = [place_piece(piece) for piece in pieces] if resident else None
        self._compile, self._carry = compile_sums, carry
        self._programs: dict[int, Callable] = {}  # by the number of batches in a piece: the last may have fewer
        self._pace = Pace(call_seconds if waits_for_calls() else 0.0)

    def __call__(
        self, params: Any, stopped: Callable[[], Any] | None = None
    ) -> dict[str, Float[Array, "*runs"]] | None:
        """Returns the means of all metrics; None if `stopped()` was true between two calls."""
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

    def _call(self, size: int, count: int, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        """Returns the carry and the sums of the metrics after `count` batches of a piece that has `size`."""
        arguments = (*arguments, np.int32(count))
        if size not in self._programs:
            self._programs[size] = self._compile(*arguments)
        started = time.perf_counter()
        carry, sums = settle(self._programs[size](*arguments))
        if self._pace.bound:
            self._pace = self._pace.after(count, longest_of_processes(time.perf_counter() - started))
        return carry, jax.tree.map(functools.partial(_first, count), sums)


def _first(count: int, sums: Array) -> Array | np.ndarray:
    """Returns the sums of the first `count` batches, ``[..., count]``, on the host if calls are waited for."""
    return np.asarray(sums)[..., :count] if waits_for_calls() else sums


def total_means(sums: Sequence[Any]) -> dict[str, Float[Array, "*runs"]]:
    """Returns the means of all metrics.

    Args:
      sums: from one call each, the sums of every metric and of its weights over each batch, ``[*runs, batches]``.
    """
    concatenate = np.concatenate if waits_for_calls() else jnp.concatenate
    totals = jax.tree.map(lambda *each: jnp.asarray(concatenate(each, -1)).sum(-1), *sums)
    return {name: mean(*total) for name, total in totals.items()}


def evaluation_pieces(order: Order, weights: Float[np.ndarray, "steps B"], piece_size: int | None) -> list[Piece]:
    """Returns the batches of an evaluation cut into pieces of `piece_size` batches; None takes 64."""
    count = piece_size or _BATCHES_IN_A_PIECE
    return [(order.part(first, count), weights[first : first + count]) for first in range(0, len(weights), count)]


def split_sums(task: Task) -> Callable[..., tuple[Any, Sums]]:
    """Returns ``(params, carry, batches, weights, bucket, first, count) -> (carry, sums)``: the sums of each batch."""

    def sums(params: Any, carry: Any, batches: Any, weights: Array, bucket: Any, first: Any, count: Any) -> Any:
        def step(carry: Any, item: Any) -> tuple[Any, Sums]:
            batch, weight, bucket = item
            evaluate_batch = by_bucket(
                task.buckets, lambda carry, batch: evaluation_sums(task, BATCH, params, carry, batch, weight)
            )
            return evaluate_batch(carry, batch, bucket)

        return some_steps(step, carry, (batches, weights, bucket), first, count, len(weights))

    return sums
