"""The linear recurrence d_t = J_t d_{t-1} + b_t of small matrices, which every iteration of Newton's method solves.

Matrices are ``[T, D, D, *batch, N]`` and vectors ``[T, D, *batch, N]``, so that what is done to all blocks is done to
long vectors.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.backend import scans_in_order
from rnnjax.unrolling.chunks import WHOLE, Chunks
from rnnjax.unrolling.linear_scan import linear_scan
from rnnjax.unrolling.prefixes import shifted

_WRITTEN_OUT = 4  # rows of matrices whose products are sums of that many terms, without a product of matrices


def solved(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], chunks: Chunks = WHOLE
) -> Float[Array, "T D *B N"]:
    """Returns all d_t, from d = 0 before the first step of all.

    One step after another on a CPU, elsewhere as a tree, whose products of matrices may overflow; so may those of all
    steps in a part, from which its first d follows.
    """
    return _solved(jacobian, b, chunks)[0]


def _solved(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], chunks: Chunks, *, reverse: bool = False
) -> tuple[Array, Array]:
    """Returns what `solved` does, and the d before this part's first step; with `reverse`, d_t = J_t d_{t+1} + b_t."""
    start = chunks.start(_combined, (jacobian, b), jnp.zeros_like(b[0]), reverse)
    if b.shape[1] == 1:
        return linear_scan(jacobian[:, 0], b, start, reverse=reverse), start
    return (_in_order if scans_in_order() else _as_tree)(jacobian, b, start, reverse), start


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
        return _without_overflow(jacobian, b, chunks, reverse=False)[0]

    # Solved for what each step hands on to the one before it, which is its matrix, transposed, times its cotangent.
    def solve_transposed(_, g: Array) -> Array:
        transposed = jnp.swapaxes(jacobian, 1, 2)
        handed_on, by_later_parts = _without_overflow(transposed, applied(transposed, g), chunks, reverse=True)
        return g + shifted(handed_on, by_later_parts, reverse=True)

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


def _in_order(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], start: Float[Array, "D *B N"], reverse: bool
) -> Array:
    """Returns all d_t, one step after another, from the one before the first step."""

    def step(d: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        d = applied(item[0], d, 0) + item[1]
        return d, d

    return jax.lax.scan(step, start, (jacobian, b), reverse=reverse)[1]


def _as_tree(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], start: Float[Array, "D *B N"], reverse: bool
) -> Array:
    """Returns all d_t by a tree of combinations of neighbouring steps."""
    first = -1 if reverse else 0
    b = b.at[first].add(applied(jacobian[first], start, 0))
    return jax.lax.associative_scan(_combined, (jacobian, b), reverse=reverse)[1]


def _combined(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns the step that does what one step and then another do."""
    return _product(second[0], first[0]), applied(second[0], first[1]) + second[1]


def _without_overflow(
    jacobian: Float[Array, "T D D *B N"], b: Float[Array, "T D *B N"], chunks: Chunks, *, reverse: bool
) -> tuple[Array, Array]:
    """Returns what `_solved` does, by a loop where products of matrices overflow."""
    found = _solved(jacobian, b, chunks, reverse=reverse)
    if chunks == WHOLE and scans_in_order():
        return found

    def by_loop(start: Array, _) -> tuple[Array, tuple[Array, Array]]:
        d = _in_order(jacobian, b, start, reverse)
        return d[0 if reverse else -1], (d, start)

    overflows = chunks.any(~jnp.isfinite(found[0]).all())
    return chunks.in_turns(overflows, by_loop, jnp.zeros_like(b[0]), found, reverse)
