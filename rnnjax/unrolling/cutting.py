"""What lies before a reset has no influence on what comes after it, even if it is NaN or infinite.

A reset replaces the state, which is enough for values but not for gradients: a step before the reset contributes zero
times its derivative, and zero times NaN is NaN. So where a reset follows, the inputs and the first state are made
finite, and where a cell overflows by itself, its step's derivative is taken at another point.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.unrolling.closed_over import with_closed_over
from rnnjax.unrolling.selecting import all_finite, select, zeros_where


def cut_off(
    xs: Float[Array, "T *B I"], state: State, initial: State, resets: Bool[Array, "T *B"]
) -> tuple[Array, State, Bool[Array, "T *B"]]:
    """Returns inputs and a first state that are finite wherever a reset follows, and which steps' outputs are NaN.

    Where a reset follows, an input that is not finite is replaced by zeros, and a first state by the initial one. The
    outputs from there on up to the reset, which would have been NaN, must then be set to NaN.

    Args:
      xs: the inputs.
      state: the state before the first step, each leaf ``[*batch, ...]``.
      initial: the state that resets go back to.
      resets: which sequences are reset before each step.
    """
    bad_input = followed_by_reset(resets) & ~jnp.isfinite(xs).all(-1)
    # Any reset follows the first state, wherever it is.
    bad_state = resets.any(0) & ~all_finite(state, resets.ndim - 1)
    # A reset before step 0 replaces the given state before any step has read it.
    lost = since_reset(bad_input, bad_state & ~resets[0], resets)
    return zeros_where(bad_input, xs), select(bad_state, initial, state), lost


def followed_by_reset(resets: Bool[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Returns whether a reset follows each step."""
    # In whole numbers, since `cummax` is not defined for flags.
    from_here_on = jax.lax.cummax(resets.astype(jnp.int32), 0, reverse=True) > 0
    # Shifted by one: the reset before a step does not follow that step. Nothing follows the last one.
    return jnp.concatenate([from_here_on[1:], jnp.zeros_like(resets[:1])])


def since_reset(
    bad: Bool[Array, "T *B"], at_start: Bool[Array, "*B"], resets: Bool[Array, "T *B"]
) -> Bool[Array, "T *B"]:
    """Returns for each step whether, since the last reset, any step up to it was bad, or the start was."""
    bad, at_start = bad.astype(jnp.int32), at_start.astype(jnp.int32)
    count = jnp.cumsum(bad, 0) + at_start
    # Bad steps before each step; at a reset this is what the reset wipes out.
    before = count - bad
    # Counts never fall, so the largest of those at resets up to here is that of the last reset.
    at_reset = jax.lax.cummax(jnp.where(resets, before, 0), axis=0)
    return count > at_reset


def nan_up_to_reset(ys: Float[Array, "T *B O"], bad: Bool[Array, "T *B"], resets: Bool[Array, "T *B"]) -> Array:
    """Returns outputs that are NaN from the first bad step on, up to the reset."""
    lost = since_reset(bad, jnp.zeros_like(resets[0]), resets)
    return select(lost, jnp.full_like(ys, jnp.nan), ys)


def nan_where_lost(
    ys: Float[Array, "T *B O"], followed: Bool[Array, "T *B"] | None, resets: Bool[Array, "T *B"] | None
) -> Array:
    """Returns outputs that were computed in parts, each without what was before it, NaN from where one was lost on.

    What was lost in an earlier part may have given finite states in a later one.

    Args:
      ys: the outputs of all steps.
      followed: which sequences are reset at some time after each step; None: none.
      resets: which sequences are reset before each step; None: none.
    """
    if followed is None or resets is None:
        return ys
    return nan_up_to_reset(ys, followed & ~jnp.isfinite(ys).all(-1), resets)


class Taken(NamedTuple):
    """The arguments of a cell's step, the state that resets go to, and whether a reset follows at some time."""

    params: Params
    before: State
    z: Any
    initial: State
    followed: Bool[Array, " *B"]


def lost_to_reset(followed: Bool[Array, " *B"], before: State, after: State) -> Bool[Array, " *B"]:
    """Returns where a step met or made something that is not finite, which a reset later cuts off."""
    # Both ends, since a step from an infinite state may give a finite one, as tanh(inf) = 1, and a derivative of NaN.
    return followed & ~(all_finite(before, followed.ndim) & all_finite(after, followed.ndim))


def step_before_reset(cell: Cell, taken: Taken) -> tuple[State, Array]:
    """Returns what a cell's step does, with a derivative that is zero where the step is lost to a reset.

    It is computed on the way back, at the initial state and z = 0 where the step is lost.
    """
    step, closed_over = with_closed_over(cell.step, taken.params, taken.before, taken.z)
    return _step(step, taken, closed_over)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _step(step: Callable[..., Any], taken: Taken, closed_over: list[Any]) -> tuple[State, Array]:
    return step(taken.params, taken.before, taken.z, closed_over)


@_step.defjvp
def _derivative(step: Callable[..., Any], primals: tuple[Taken, Any], tangents: tuple[Taken, Any]) -> tuple[Any, Any]:
    (taken, closed_over), (change, d_closed_over) = primals, tangents
    after, y = _step(step, taken, closed_over)  # for a derivative of this one
    lost = lost_to_reset(taken.followed, taken.before, after)

    # So the step is evaluated again on the way back, where `lost` is known, and its residuals are not stored.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_step(params: Params, before: State, z: Any, closed_over: list[Any]) -> Any:
        # Tangents are replaced too: a finite derivative times a tangent that is NaN is NaN.
        arguments = params, select(lost, taken.initial, before), zeros_where(lost, z), closed_over
        changes = change.params, zero_tangents_where(lost, change.before), zero_tangents_where(lost, change.z)
        return jax.jvp(step, arguments, (*changes, d_closed_over))[1]

    # Zero once more: the parameters' tangents are those of all sequences, and are not lost where one of them is.
    return (after, y), zero_tangents_where(lost, of_step(taken.params, taken.before, taken.z, closed_over))


def zero_tangents_where(lost: Bool[Array, " *B"], tangents: Any) -> Any:
    """Returns tangents that are zero where a step is lost; those of whole numbers are not arrays, and are zero."""
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == jax.dtypes.float0 else zeros_where(lost, leaf), tangents)
