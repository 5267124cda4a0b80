"""Complex numbers as pairs of real arrays, and the sums and products of numbers that are either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float


class Complex(NamedTuple):
    """A complex number as two real arrays of one shape.

    Loops and prefixes of arrays of a complex type compile and run several times slower than those of such pairs.

    Example:
      >>> import jax.numpy as jnp, rnnjax
      >>> i, one = rnnjax.Complex(jnp.zeros(4), jnp.ones(4)), rnnjax.Complex(jnp.ones(4), jnp.zeros(4))
      >>> sums = rnnjax.linear_scan(i, one)
      >>> print(sums.real, sums.imag)
      [1. 1. 0. 0.] [0. 1. 1. 0.]
    """

    real: Float[Array, "*N"]
    imag: Float[Array, "*N"]


def is_complex(number: Any) -> bool:
    """Returns whether a number is a `Complex` pair."""
    return isinstance(number, Complex)


def times(a: Any, b: Any) -> Any:
    """Returns the product of two numbers, each an array or a `Complex` pair."""
    if not is_complex(a):
        return jax.tree.map(lambda part: a * part, b)
    if not is_complex(b):
        return Complex(a.real * b, a.imag * b)
    return Complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def plus(a: Any, b: Any) -> Any:
    """Returns the sum of two numbers of one kind."""
    return jax.tree.map(lambda x, y: x + y, a, b)


def map_numbers(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Returns the tree with `function` applied to every number, a `Complex` pair being one."""
    return jax.tree.map(function, tree, *others, is_leaf=is_complex)
