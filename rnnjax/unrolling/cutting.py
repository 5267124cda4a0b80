"""What lies before a reset is cut off from what comes after it, numbers that are not finite included.

A reset puts a fresh state in the place of the old one, which is enough for values. For gradients it is not: what a step
before it contributes is zero times its derivative, and zero times NaN is NaN.
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
    """Returns inputs and first state that are finite wherever a reset follows, and which steps' outputs are lost.

    An input that is not finite is replaced by zeros, a state by the initial one, and every output from there on up to
    the next reset is lost, as it would have been NaN.
    """
    followed = _any_later(resets)
    bad = followed & ~jnp.isfinite(xs).all(-1)
    bad_state = resets.any(0) & ~_finite(state, resets.ndim - 1)
    lost = _since_reset(bad, bad_state & ~resets[0], resets)
    xs = select(bad, jnp.zeros_like(xs), xs)
    return xs, select(bad_state, initial, state), lost


def _any_later(resets: Bool[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Returns whether a reset follows a step."""
    from_here_on = jax.lax.cummax(resets.astype(jnp.int32), 0, reverse=True) > 0
    return jnp.concatenate([from_here_on[1:], jnp.zeros_like(resets[:1])])


def _finite(state: State, batch_axes: int) -> Bool[Array, "*B"]:
    """Returns whether all of each sequence's state is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    each = [jnp.isfinite(leaf).all(tuple(range(batch_axes, leaf.ndim))) for leaf in leaves]
    return jnp.stack(each).all(0) if each else jnp.asarray(True)


def _since_reset(
    bad: Bool[Array, "T *B"], at_start: Bool[Array, "*B"], resets: Bool[Array, "T *B"]
) -> Bool[Array, "T *B"]:
    """Returns whether there was something bad at a step or before it, since the last reset."""
    bad, at_start = bad.astype(jnp.int32), at_start.astype(jnp.int32)
    count = jnp.cumsum(bad, 0) + at_start
    before = count - bad
    at_reset = jax.lax.cummax(jnp.where(resets, before, 0), axis=0)
    return count > at_reset
