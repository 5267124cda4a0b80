"""Ways to compute all steps of h_t = a_t h_{t-1} + b_t, and of its transpose, which runs backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from rnnjax.cells.pairs import Complex, is_complex, plus, times
from rnnjax.unrolling.selecting import zeros_where


class Factors(NamedTuple):
    """What the state is multiplied by.

    Attributes:
      a: a number ``[T, ...]``, or ``[1, ...]`` where it is the same at every step; zero at every cut.
      cuts: which sequences forget the state at a step, even one that is not finite, ``[T, *batch]``; None: none.
    """

    a: Any
    cuts: Bool[Array, "T *B"] | None


def in_order(factors: Factors, b: Any, h0: Any, reverse: bool) -> Any:
    """Returns all states, one step after another.

    Args:
      factors: what the states are multiplied by.
      b: what is added, a number ``[T, *batch, ...]``.
      h0: the state before the first step.
      reverse: whether to go from the last step to the first.
    """

    def step(h: Any, item: tuple[Factors, Any]) -> tuple[Any, Any]:
        (a, cut), b = item
        h = plus(times(a, h if cut is None else zeros_where(cut, h)), b)
        return h, h

    return _scan(step, h0, factors, b, reverse)[1]


def in_order_transposed(factors: Factors, g: Any, reverse: bool) -> Any:
    """Returns the transpose of `in_order`, from the cotangents of all states to those of `b`."""

    def step(later: Any, item: tuple[Factors, Any]) -> tuple[Any, Any]:
        (a, cut), g = item
        g = plus(g, later)
        earlier = times(conjugate(a), g)
        return earlier if cut is None else zeros_where(cut, earlier), g

    return _scan(step, jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), g), factors, g, not reverse)[1]


def _scan(step: Any, first: Any, factors: Factors, numbers: Any, reverse: bool) -> tuple[Any, Any]:
    """Repeats a step; factors that are the same at every step are read once."""
    length = jax.tree.leaves(numbers)[0].shape[0]
    if jax.tree.leaves(factors.a)[0].shape[0] == length:
        return jax.lax.scan(step, first, (factors, numbers), reverse=reverse)
    a = jax.tree.map(lambda leaf: leaf[0], factors.a)

    def with_same_a(h: Any, item: tuple[Any, Any]) -> tuple[Any, Any]:
        cut, number = item
        return step(h, (Factors(a, cut), number))

    return jax.lax.scan(with_same_a, first, (factors.cuts, numbers), reverse=reverse)


def as_tree(factors: Factors, b: Any, h0: Any, reverse: bool) -> Any:
    """Returns all states by a tree of combinations of neighbouring steps, log2(T) deep.

    Args:
      factors, b, h0, reverse: as in `in_order`.
    """
    a = broadcast_over_time(factors.a, b)
    first = times(jax.tree.map(lambda leaf: leaf[-1 if reverse else 0], a), h0)
    cut = None if factors.cuts is None else factors.cuts[-1 if reverse else 0]
    first = first if cut is None else zeros_where(cut, first)
    b = jax.tree.map(lambda leaf, more: leaf.at[-1 if reverse else 0].add(more), b, first)
    return jax.lax.associative_scan(combined, (Factors(a, factors.cuts), b), reverse=reverse)[1]


def as_tree_transposed(factors: Factors, g: Any, reverse: bool) -> Any:
    """Returns the transpose of `as_tree`, from the cotangents of all states to those of `b`."""
    later = later_factors(Factors(broadcast_over_time(factors.a, g), factors.cuts), reverse)
    return jax.lax.associative_scan(combined, (later, g), reverse=not reverse)[1]


def later_factors(factors: Factors, reverse: bool) -> Factors:
    """Returns what the cotangent of each step's later neighbour is multiplied by: its factor, conjugated."""
    shift = lambda leaf: _shifted(leaf, jnp.zeros_like(leaf[0]), not reverse)  # noqa: E731
    return jax.tree.map(shift, Factors(conjugate(factors.a), factors.cuts))


def combined(first: tuple[Factors, Any], second: tuple[Factors, Any]) -> tuple[Factors, Any]:
    """Returns the step that does what one step and then another do."""
    (a1, cuts1), b1 = first
    (a2, cuts2), b2 = second
    if cuts1 is None or cuts2 is None:
        return Factors(times(a2, a1), None), plus(times(a2, b1), b2)
    a1, b1 = zeros_where(cuts2, (a1, b1))
    return Factors(times(a2, a1), cuts1 | cuts2), plus(times(a2, b1), b2)


def broadcast_over_time(a: Any, b: Any) -> Any:
    """Returns factors that have as many steps and axes as the numbers, with which the tree combines them."""
    like = b.real if is_complex(b) else b
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, like.shape), a)


def shifted(numbers: Any, first: Any, reverse: bool) -> Any:
    """Returns the number before each step, `first` for the one that is taken first."""
    return jax.tree.map(lambda leaf, start: _shifted(leaf, start, reverse), numbers, first)


def _shifted(leaf: Array, first: Array, reverse: bool) -> Array:
    parts = [leaf[1:], first[None]] if reverse else [first[None], leaf[:-1]]
    return jnp.concatenate(parts)


def conjugate(a: Any) -> Any:
    """Returns the number whose product is the transpose of the product with `a`."""
    return Complex(a.real, -a.imag) if is_complex(a) else a
