"""What lies before a reset has no influence on what comes after it, even if it is NaN or infinite.

A reset replaces the state, which is enough for values but not for gradients: a step before the reset contributes zero
times its derivative, and zero times NaN is NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnnjax.cells.cell import State
from rnnjax.unrolling.recurrence import select


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
    bad_input = _reset_follows(resets) & ~jnp.isfinite(xs).all(-1)
    bad_state = resets.any(0) & ~_finite(state, resets.ndim - 1)
    lost = _since_reset(bad_input, bad_state & ~resets[0], resets)
    xs = select(bad_input, jnp.zeros_like(xs), xs)
    return xs, select(bad_state, initial, state), lost


def _reset_follows(resets: Bool[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Returns whether a reset follows each step."""
    from_here_on = jax.lax.cummax(resets.astype(jnp.int32), 0, reverse=True) > 0
    return jnp.concatenate([from_here_on[1:], jnp.zeros_like(resets[:1])])


def _finite(state: State, batch_axes: int) -> Bool[Array, "*B"]:
    """Returns for each sequence whether its whole state is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    by_leaf = [jnp.isfinite(leaf).all(tuple(range(batch_axes, leaf.ndim))) for leaf in leaves]
    return jnp.stack(by_leaf).all(0) if by_leaf else jnp.asarray(True)


def _since_reset(
    bad: Bool[Array, "T *B"], at_start: Bool[Array, "*B"], resets: Bool[Array, "T *B"]
) -> Bool[Array, "T *B"]:
    """Returns for each step whether, since the last reset, any step up to it was bad, or the start was."""
    bad, at_start = bad.astype(jnp.int32), at_start.astype(jnp.int32)
    count = jnp.cumsum(bad, 0) + at_start
    before = count - bad
    at_reset = jax.lax.cummax(jnp.where(resets, before, 0), axis=0)
    return count > at_reset
