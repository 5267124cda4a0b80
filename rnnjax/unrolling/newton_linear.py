"""The linear recurrence d_t = J_t d_{t-1} + b_t of small matrices, which every iteration of Newton's method solves.

Matrices are ``[T, D, D, *batch, N]`` and vectors ``[T, D, *batch, N]``, so that what is done to all blocks is done to
long vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.backend import scans_in_order
from rnnjax.unrolling.chunks import WHOLE, Chunks
from rnnjax.unrolling.linear_scan import at_first, linear_scan
from rnnjax.unrolling.prefixes import shifted

_WRITTEN_OUT = 4  # rows of matrices whose products are sums of that many terms, without a product of matrices


class _Solve(Protocol):
    """Returns all d_t from the one before the first step, `start`; with `reverse`, d_t = J_t d_{t+1} + b_t."""

    def __call__(self, jacobian: Array, b: Array, start: Array, reverse: bool) -> Array: ...


def solved(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], chunks: Chunks = WHOLE
) -> Float[Array, "T D *B N"]:
    """Returns all d_t, from d = 0 before the first step of all.

    One step after another on a CPU, elsewhere as a tree, whose products of matrices may overflow; so may those of all
    steps in a part, from which the d before it follows.
    """
    return _solve(jacobian, b, chunks.start(_combined, (jacobian, b), jnp.zeros_like(b[0])), False)


def linear_solution(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], chunks: Chunks = WHOLE
) -> Float[Array, "T D *B N"]:
    """Returns the same, as a function that JAX knows to be linear in `b`: its transpose is one recurrence backward.

    Where products of matrices overflow, it is computed once more, one step after another.
    """

    def equations(d: Array) -> Array:
        before = chunks.before(d, jnp.zeros_like(d[0]))
        return d - applied(jacobian, shifted(d, before, reverse=False))

    def solve(_, b: Array) -> Array:
        def from_start(by: _Solve, start: Array) -> tuple[Array, Array]:
            d = by(jacobian, b, start, False)
            return d[-1], d

        return _without_overflow(chunks, (jacobian, b), from_start, reverse=False)

    def solve_transposed(_, g: Array) -> Array:
        transposed = jnp.swapaxes(jacobian, 1, 2)
        after = jnp.concatenate([transposed[1:], jnp.zeros_like(transposed[:1])])

        # What a step hands on to the one before it is its matrix, transposed, times its d.
        def from_later(by: _Solve, later: Array) -> tuple[Array, Array]:
            d = by(after, g + at_first(later, g, True), jnp.zeros_like(later), True)
            return applied(transposed[0], d[0], 0), d

        return _without_overflow(chunks, (transposed, applied(transposed, g)), from_later, reverse=True)

    return jax.lax.custom_linear_solve(equations, b, solve, solve_transposed)


def applied(jacobian: Float[Array, "T D D *B N"], d: Float[Array, "T D *B N"], time: int = 1) -> Float[Array, "..."]:
    """Returns the products of matrices and vectors; those of one step, without an axis of time, with ``time=0``."""
    return jnp.squeeze(_product(jacobian, jnp.expand_dims(d, time + 1), time), time + 1)


def _product(a: Float[Array, "..."], b: Float[Array, "..."], time: int = 1) -> Float[Array, "..."]:
    """Returns the products of matrices whose rows and columns are the first axes, or the first after that of time."""
    inner = b.shape[time]
    if inner > _WRITTEN_OUT:
        pattern = "tij...,tjk...->tik..." if time else "ij...,jk...->ik..."
        return jnp.einsum(pattern, a, b, precision=jax.lax.Precision.HIGHEST)
    take = functools.partial(jax.lax.slice_in_dim, stride=1)
    terms = (take(a, k, k + 1, axis=time + 1) * take(b, k, k + 1, axis=time) for k in range(inner))
    return functools.reduce(jnp.add, terms)


def _solve(jacobian: Array, b: Array, start: Array, reverse: bool) -> Array:
    """Solves it in the way that suits the device."""
    if b.shape[1] == 1:
        return linear_scan(jacobian[:, 0], b, start, reverse=reverse)
    return (_in_order if scans_in_order() else _as_tree)(jacobian, b, start, reverse)


def _in_order(jacobian: Array, b: Array, start: Array, reverse: bool) -> Array:
    """Solves it one step after another."""

    def step(d: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        d = applied(item[0], d, 0) + item[1]
        return d, d

    return jax.lax.scan(step, start, (jacobian, b), reverse=reverse)[1]


def _as_tree(jacobian: Array, b: Array, start: Array, reverse: bool) -> Array:
    """Solves it by a tree of combinations of neighbouring steps."""
    first = -1 if reverse else 0
    b = b.at[first].add(applied(jacobian[first], start, 0))
    return jax.lax.associative_scan(_combined, (jacobian, b), reverse=reverse)[1]


def _combined(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns the step that does what one step and then another do."""
    return _product(second[0], first[0]), applied(second[0], first[1]) + second[1]


def _without_overflow(
    chunks: Chunks,
    steps: tuple[Array, Array],
    solve_from: Callable[[_Solve, Array], tuple[Array, Array]],
    *,
    reverse: bool,
) -> Array:
    """Returns all d_t, by a loop where products of matrices overflow.

    Args:
      chunks: the other parts.
      steps: the matrices and vectors of the recurrence of what steps hand on.
      solve_from: takes a way to solve and what is handed on to this part, and returns what it hands on, and all d_t.
      reverse: whether to go from the last step to the first.
    """
    nothing = jnp.zeros_like(steps[1][0])
    d = solve_from(_solve, chunks.start(_combined, steps, nothing, reverse))[1]
    if chunks == WHOLE and scans_in_order():
        return d

    def by_loop(start: Array, _: Array) -> tuple[Array, Array]:
        return solve_from(_in_order, start)

    return chunks.in_turns(chunks.any(~jnp.isfinite(d).all()), by_loop, nothing, d, reverse)
