"""The operations that gates may use in a GPU's kernel: those that its compiler knows, and others in terms of these."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnnjax.unrolling.kernels.traced_gates import Gates, gates_of
from rnnjax.unrolling.recurrence import Recurrence


def in_instructions(gates: Gates) -> Gates:
    """Returns gates in terms of what the compiler knows, as far as that is possible here."""
    return gates.rewritten(_REWRITTEN)


def unknown_operation(recurrence: Recurrence) -> str | None:
    """Returns in one sentence what the gates of a recurrence use that kernels cannot compute; None if nothing."""
    name = type(recurrence.cell).__name__
    try:
        gates = in_instructions(gates_of(recurrence))
        equations = [*gates.forward.operations(), *gates.backward.operations()]
    except NotImplementedError as error:
        return f"Pallas() cannot run the gates of {name}: {error}; use Fused() or Scan()"
    unknown = sorted({equation.primitive.name for equation in equations} - _KNOWN)
    if not unknown:
        return None
    return (
        f"Pallas() has no instruction for {' and '.join(unknown)}, which the gates of {name} or their derivative use; "
        "use Fused() or Scan()"
    )


def _floor(x: Float[Array, "rows units"]) -> Float[Array, "rows units"]:
    nearest = jax.lax.round(x, jax.lax.RoundingMethod.TO_NEAREST_EVEN)
    return jax.lax.select(nearest > x, nearest - 1, nearest)


def _integer_pow(x: Float[Array, "rows units"], *, y: int) -> Float[Array, "rows units"]:
    if y < 0:
        return 1 / _integer_pow(x, y=-y)
    return jnp.ones_like(x) if y == 0 else x if y == 1 else jax.lax.integer_pow(x, y)


def _is_finite(x: Float[Array, "rows units"]) -> Bool[Array, "rows units"]:
    return jnp.abs(x) < math.inf


def _polynomial(
    x: Float[Array, "rows units"], *coefficients: Float[Array, "rows units"], **_: Any
) -> Float[Array, "rows units"]:
    # The coefficients are by rising powers.
    return functools.reduce(lambda sum_of_higher, c: sum_of_higher * x + c, reversed(coefficients))


def _sqrt(x: Float[Array, "rows units"], **_: Any) -> Float[Array, "rows units"]:
    # The reciprocal root of zero is infinite, and that of infinity zero.
    return jax.lax.select((x == 0) | (x == math.inf), x, x * jax.lax.rsqrt(x))


def _of_any_accuracy(function: Callable[[Array], Array]) -> Callable[..., Array]:
    """Returns a function that is told of an accuracy, of which an instruction has only one."""
    return lambda x, **_: function(x)


_ONE_ACCURACY = (
    jax.lax.cos,
    jax.lax.exp,
    jax.lax.exp2,
    jax.lax.log,
    jax.lax.logistic,
    jax.lax.rsqrt,
    jax.lax.sin,
    jax.lax.tanh,
)
_REWRITTEN: dict[str, Callable[..., Array]] = {
    **{function.__name__: _of_any_accuracy(function) for function in _ONE_ACCURACY},
    "ceil": lambda x: -_floor(-x),
    "floor": _floor,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "polynomial": _polynomial,
    "sqrt": _sqrt,
}
# A test lowers each of them for a GPU.
_NAMES = """
abs add and atan2 bitcast_convert_type broadcast_in_dim clamp convert_element_type copy cos div eq erf exp exp2 ge gt
integer_pow le log log2 logistic lt max min mul ne neg not one_minus_square or round rsqrt select_n sign sin square sub
tanh xor
"""
_KNOWN = frozenset(_NAMES.split())
