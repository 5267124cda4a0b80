"""A recurrence run a piece of its steps at a time, so that only what lies between the pieces is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import Finished, State
from rnnjax.cells.traits import makes_z_by_step
from rnnjax.unrolling.recurrence import Recurrence, Steps

Run = Callable[[Recurrence], tuple[Any, State]]


def why_not_in_pieces(recurrence: Recurrence, every: int | None) -> str | None:
    """Returns in one sentence why a recurrence cannot be run `every` steps at a time; None if it can."""
    if every is None or isinstance(recurrence.length, int):
        return None
    return f"remat_every={every} takes a number of steps that is known, got {recurrence.length}; leave it out"


def in_pieces(recurrence: Recurrence, every: int | None, run: Run) -> tuple[Any, State]:
    """Returns what a method makes of a recurrence, run `every` steps at a time (Chen et al., 2016).

    The state is stored once a piece; on the way back, each piece is computed again, one at a time. Its z is made from
    its inputs, where they are known to give it, and its outputs are finished where they may be, so that z of all steps,
    or its gradient, is never in memory at once.

    Args:
      recurrence: the recurrence.
      every: steps in a piece; None for all of them.
      run: of the method.
    """
    length = recurrence.length
    if every is None or every >= length:
        return run(recurrence)
    steps, xs = recurrence.steps, None
    if makes_z_by_step(recurrence.cell, recurrence.params, recurrence.xs):
        steps, xs = steps._replace(z=None), recurrence.xs
    # The steps left over make one shorter piece, which is run after the loop.
    in_loop = length - length % every
    ys, state = _loop(recurrence, every, run, *jax.tree.map(lambda leaf: leaf[:in_loop], (steps, xs)))
    if in_loop == length:
        return ys, state
    last = jax.tree.map(lambda leaf: leaf[in_loop:], (steps, xs))
    last_ys, state = _piece(recurrence, run, state, *last)
    # A tree, since with `keeps_states` there is a state beside each output.
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, last_ys), state


def _loop(recurrence: Recurrence, every: int, run: Run, steps: Steps, xs: Array | None) -> tuple[Any, State]:
    """Runs a number of steps that `every` divides."""

    @jax.checkpoint
    def piece(state: State, given: tuple[Steps, Array | None]) -> tuple[State, Any]:
        ys, state = _piece(recurrence, run, state, *given)
        return state, ys

    # [T, ...] as [pieces, every, ...]; the outputs come back in the same form.
    pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, every, *leaf.shape[1:]), (steps, xs))
    state, ys = jax.lax.scan(piece, recurrence.state, pieces)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys), state


def _piece(recurrence: Recurrence, run: Run, state: State, steps: Steps, xs: Array | None) -> tuple[Any, State]:
    """Runs some of the steps; their z is made of `xs` if they are given."""
    if xs is not None:
        # Inside the checkpoint, so that z is made again on the way back, not stored.
        steps = steps._replace(z=recurrence.cell.inputs(recurrence.params, xs))
    ys, state = run(recurrence._replace(state=state, steps=steps, xs=xs, may_finish=False))
    if recurrence.may_finish and not recurrence.keeps_states:
        ys = Finished(recurrence.cell.outputs(recurrence.params, ys))
    return ys, state
