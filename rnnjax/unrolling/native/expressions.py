"""C++ for pointwise functions: a statement on vectors for each operation of a jaxpr.

Nothing that a user wrote reaches the source as text: operations come from the tables below, numbers are written by
`float.hex`, and names are numbered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

_FORMS = {
    "add": "{} + {}",
    "add_any": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "max": "v_max({}, {})",
    "min": "v_min({}, {})",
    "abs": "v_abs({})",
    "sign": "v_sign({})",
    "square": "{0} * {0}",
    "one_minus_square": "(1.f - {0}) * (1.f + {0})",  # in JAX from 0.12 on
    "sqrt": "v_sqrt({})",
    "rsqrt": "1.f / v_sqrt({})",
    "exp": "v_exp({})",
    "log": "v_log({})",
    "log1p": "v_log1p({})",
    "expm1": "v_expm1({})",
    "logistic": "v_logistic({})",
    "tanh": "v_tanh({})",
    "sin": "v_sin({})",
    "cos": "v_cos({})",
    "tan": "v_tan({})",
    "asin": "v_asin({})",
    "acos": "v_acos({})",
    "atan": "v_atan({})",
    "atan2": "v_atan2({}, {})",
    "sinh": "v_sinh({})",
    "cosh": "v_cosh({})",
    "asinh": "v_asinh({})",
    "acosh": "v_acosh({})",
    "atanh": "v_atanh({})",
    "exp2": "v_exp2({})",
    "log2": "v_log2({})",
    "cbrt": "v_cbrt({})",
    "erf": "v_erf({})",
    "erfc": "v_erfc({})",
    "rem": "v_rem({}, {})",
    "floor": "v_floor({})",
    "ceil": "v_ceil({})",
    "pow": "v_pow({}, {})",
    "is_finite": "v_finite({})",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "and": "{} & {}",
    "or": "{} | {}",
    "xor": "{} ^ {}",
    "not": "~{}",
    "clamp": "v_min(v_max({1}, {0}), {2})",
}
_SAME = {"copy", "copy_p", "broadcast_in_dim", "reshape", "squeeze", "stop_gradient", "optimization_barrier"}
_TYPES = {"float32": "V", "bool": "Mask", "uint32": "Mask"}  # uint32: the bits of a number
_OF_BITS = {"and", "or", "xor", "not", "bitcast_convert_type"}
_ZERO = "all(0x0.0p+0f)"
_MOST_FACTORS = 16  # of an integer power


def statements(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """Returns C++ that computes a jaxpr of arrays with one entry each, on vectors of such entries.

    Args:
      jaxpr: the jaxpr.
      constants: values of its constants.
      inputs: for each argument, the vector that it is.
      outputs: for each result, the vector that it is stored in.

    Raises:
      NotImplementedError: for an operation or a type that has no form here.
    """
    names = {id(v): _constant(np.asarray(c)) for v, c in zip(jaxpr.constvars, constants)}
    names.update((id(v), name) for v, name in zip(jaxpr.invars, inputs))
    lines: list[str] = []

    def read(atom: Any) -> str:
        aval: Any = atom.aval
        return _constant(np.asarray(atom.val, aval.dtype)) if isinstance(atom, Literal) else names[id(atom)]

    for equation in jaxpr.eqns:
        (result,) = equation.outvars
        name = equation.primitive.name
        operands = [read(atom) for atom in equation.invars]
        if name in ("add", "add_any") and _ZERO in operands:
            # Sums with a zero are what the trace leaves of gates that are put together.
            names[id(result)] = operands[operands[0] == _ZERO]
            continue
        if name in _SAME or (name == "convert_element_type" and equation.invars[0].aval.dtype == result.aval.dtype):
            names[id(result)] = operands[0]
            continue
        names[id(result)] = f"v{len(lines)}"
        lines.append(f"const {_type(result.aval)} v{len(lines)} = {_form(equation, operands)};")
    return [*lines, *(f"{target} = {read(atom)};" for target, atom in zip(outputs, jaxpr.outvars))]


def _form(equation: Any, operands: list[str]) -> str:
    """Returns the expression of one operation."""
    name, first = equation.primitive.name, equation.invars[0].aval if equation.invars else None
    if name not in _OF_BITS and any(atom.aval.dtype == np.uint32 for atom in equation.invars):
        raise NotImplementedError(f"gates use {name} of whole numbers, for which there is no C++ form")
    if name == "bitcast_convert_type":
        return f"({_type(equation.outvars[0].aval)}){operands[0]}"
    if name == "polynomial":
        x, *terms = operands  # by rising powers
        return " + ".join(f"{x} * ({term}" for term in terms).removeprefix(f"{x} * (") + ")" * (len(terms) - 1)
    if name == "round":
        to_even = equation.params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN
        return f"v_round_{'even' if to_even else 'away'}({operands[0]})"
    if name == "integer_pow":
        return _integer_power(equation.params["y"], operands[0])
    if name == "select_n" and len(operands) == 3 and first is not None and first.dtype == bool:
        where, no, yes = operands
        masks = equation.outvars[0].aval.dtype == bool
        return f"({where} & {yes}) | (~{where} & {no})" if masks else f"pick({where}, {yes}, {no})"
    if name == "convert_element_type" and first is not None and first.dtype == bool:
        return f"pick({operands[0]}, all(1.f), all(0.f))"
    if name not in _FORMS:
        raise NotImplementedError(f"gates use {name}, for which there is no C++ form")
    return _FORMS[name].format(*operands)


def _integer_power(power: int, x: str) -> str:
    factors = " * ".join([x] * abs(power)) if power else "all(1.f)"
    if abs(power) > _MOST_FACTORS:
        raise NotImplementedError(f"gates use a power of {power}, and C++ is written for up to {_MOST_FACTORS}")
    return factors if power >= 0 else f"1.f / ({factors})"


def _type(aval: Any) -> str:
    """Returns the C++ type of a vector.

    Raises:
      NotImplementedError: for a type other than float32 and bool.
    """
    if aval.dtype.name not in _TYPES:
        raise NotImplementedError(f"gates compute in {aval.dtype.name}, and C++ is written for float32 alone")
    return _TYPES[aval.dtype.name]


def _constant(value: np.ndarray) -> str:
    """Returns a vector of equal numbers."""
    kind, entries = _type(value), np.unique(value)
    if entries.size != 1:
        raise NotImplementedError("gates use an array of several numbers where one was expected")
    if value.dtype == np.uint32:
        return f"((Mask){{}} | (int32_t){int(entries[0]):#x}u)"
    if kind == "Mask":
        return "mask(true)" if entries[0] else "mask(false)"
    return f"all({_number(float(entries[0]))})"


def _number(x: float) -> str:
    if math.isnan(x):
        return '__builtin_nanf("")'
    if math.isinf(x):
        return "__builtin_inff()" if x > 0 else "-__builtin_inff()"
    return f"{x.hex()}f"


class Equations(NamedTuple):
    """A part of a jaxpr, of which `statements` makes C++ as of a whole one."""

    constvars: Sequence[Any]
    invars: Sequence[Any]
    eqns: Sequence[Any]
    outvars: Sequence[Any]


def in_two_parts(jaxpr: Any, known: Sequence[Any]) -> tuple[Equations, Equations]:
    """Returns what a jaxpr computes of some of its arguments alone, and what is left.

    Args:
      jaxpr: the jaxpr.
      known: these arguments.

    Returns:
      The part that reads the known arguments, and the rest, which takes its results behind all arguments.
    """
    early, late = {id(v) for v in (*known, *jaxpr.constvars)}, []
    equations: list[Any] = []
    for equation in jaxpr.eqns:
        # What is handed on is a vector of numbers.
        numbers = all(v.aval.dtype == np.float32 for v in equation.outvars)
        if numbers and all(isinstance(atom, Literal) or id(atom) in early for atom in equation.invars):
            equations.append(equation)
            early.update(map(id, equation.outvars))
        else:
            late.append(equation)
    read = {id(atom) for equation in late for atom in equation.invars} | {id(atom) for atom in jaxpr.outvars}
    handed_on = [v for equation in equations for v in equation.outvars if id(v) in read]
    first = Equations(jaxpr.constvars, list(known), equations, handed_on)
    return first, Equations(jaxpr.constvars, [*jaxpr.invars, *handed_on], late, jaxpr.outvars)


def flat_jaxpr(function: Any, count: int) -> tuple[Any, list[Any]]:
    """Returns the jaxpr of a function of `count` arrays with one entry, and its constants; calls in it are none."""
    entry = jax.ShapeDtypeStruct((1, 1), np.float32)
    closed = jax.make_jaxpr(function)(*[entry] * count)
    return closed.jaxpr, list(closed.consts)
