"""Pointwise functions of small arrays, traced once, and evaluated on tiles in the place of entries.

Every traced array is small, and becomes a list with a tile for each of its entries. Operations that only move entries
(slices, reshapes, ...) permute the list; all others are applied tile by tile.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters import partial_eval
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Shaped

Tiles = list[Shaped[Array, "rows units"]]  # the entries of one small array, in row-major order
Entry = Shaped[Array, "rows units"] | np.generic  # a NumPy scalar stands for a tile of equal entries


@dataclasses.dataclass(frozen=True)
class Value:
    """A small array whose entries are tiles or NumPy scalars: ``entries[index]``.

    Attributes:
      entries: a list of entries.
      index: where each entry of the array is in that list.
    """

    entries: list[Entry]
    index: Int[np.ndarray, "..."]

    def flat(self) -> list[Entry]:
        """Returns the array's entries in row-major order."""
        return [self.entries[i] for i in self.index.ravel()]

    @property
    def constant(self) -> bool:
        """Whether all entries are NumPy scalars."""
        return all(isinstance(entry, np.generic) for entry in self.flat())

    def numpy(self) -> Shaped[np.ndarray, "..."]:
        """Returns an array of NumPy scalars as NumPy's."""
        return np.array(self.flat()).reshape(self.index.shape)


def value(entries: Sequence[Entry], shape: tuple[int, ...]) -> Value:
    """Returns a value of a shape from its entries in row-major order."""
    return Value(list(entries), np.arange(len(entries)).reshape(shape))


def constant(x: Shaped[ArrayLike, "..."]) -> Value:
    """Returns a value of NumPy scalars.

    Raises:
      NotImplementedError: for keys of random numbers, which NumPy does not have.
    """
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        raise NotImplementedError("gates use random numbers, which are not known to be pointwise")
    x = np.asarray(x)
    return value([x.dtype.type(entry) for entry in x.ravel()], x.shape)


class Pointwise:
    """A function of small arrays ``[..., 1]``, evaluated on lists of tiles.

    Args:
      function: the function, of pytrees of arrays.
      *examples: its arguments, or their shapes and types, to trace it with.

    Attributes:
      reads: for each leaf of the arguments, whether the function reads it.
    """

    def __init__(self, function: Callable[..., Any], *examples: Any):
        closed = jax.make_jaxpr(function)(*examples)
        self._constants = closed.consts
        # Without dead code, an argument that is in no equation is not read.
        everything = [True] * len(closed.jaxpr.outvars)
        self._jaxpr: Any = partial_eval.dce_jaxpr(closed.jaxpr, everything, instantiate=True)[0]
        # By identity, since literals among the operands cannot be hashed.
        read = {id(v) for e in self._jaxpr.eqns for v in e.invars} | {id(v) for v in self._jaxpr.outvars}
        self.reads = tuple(id(v) in read for v in self._jaxpr.invars)
        self._rewritten = _REWRITTEN

    def rewritten(self, operations: Mapping[str, Callable[..., Any]]) -> Pointwise:
        """Returns the same function with primitives, by their names, in terms of others.

        Args:
          operations: for each primitive a function of its operands, which are tiles, and its parameters.
        """
        new = copy.copy(self)
        new._rewritten = {**self._rewritten, **operations}
        return new

    def operations(self) -> list[Any]:
        """Returns the equations of the primitives that run on tiles.

        Raises:
          NotImplementedError: for a primitive that is not known to be pointwise.
        """
        variables = self._jaxpr.invars

        def on_tiles(*tiles: Array) -> list[Tiles]:
            remaining = iter(tiles)
            arguments = [[next(remaining) for _ in range(v.aval.size)] for v in variables]
            return self(*arguments, like=tiles[0])

        tiles = [jax.ShapeDtypeStruct((1, 1), v.aval.dtype) for v in variables for _ in range(v.aval.size)]
        return list(_inner_equations(jax.make_jaxpr(on_tiles)(*tiles).jaxpr))

    def __call__(self, *arguments: Tiles | None, like: Shaped[Array, "rows units"]) -> list[Tiles]:
        """Returns the leaves of the result.

        Args:
          *arguments: the leaves of the arguments; one that is not read may be None.
          like: any tile, for the shape of tiles.
        """
        variables = self._jaxpr.invars
        values = [None if tiles is None else value(tiles, v.aval.shape) for v, tiles in zip(variables, arguments)]
        results = _evaluate(self._jaxpr, self._constants, values, self._rewritten)
        return [_filled(result, v.aval.dtype, like) for result, v in zip(results, self._jaxpr.outvars)]

    def alike(self, a: int, b: int) -> bool:
        """Returns whether two leaves of the result are the same value, up to conversions of type."""
        equation_of = {id(v): equation for equation in self._jaxpr.eqns for v in equation.outvars}

        def source(atom: Any) -> Any:
            equation = equation_of.get(id(atom))
            if equation is None or equation.primitive.name != "convert_element_type":
                return atom
            return source(equation.invars[0])

        return source(self._jaxpr.outvars[a]) is source(self._jaxpr.outvars[b])


def _filled(result: Value, dtype: Any, like: Array) -> Tiles:
    """Returns a value's entries, scalars as tiles too."""
    return [_tile(entry, like.shape, dtype) for entry in result.flat()]


def _tile(entry: Entry, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.lax.full(shape, entry.item(), dtype) if isinstance(entry, np.generic) else entry


def _inner_equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr, those of functions that it calls in the place of the calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in _CALLS:
            yield from _inner_equations(_called(equation).jaxpr)
        else:
            yield equation


def _called(equation: Any) -> ClosedJaxpr:
    """Returns the function that an equation calls."""
    # The name differs from primitive to primitive, and so does whether constants come with it.
    inner = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _evaluate(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Value | None],
    rewritten: Mapping[str, Callable[..., Array]],
) -> list[Value]:
    """Returns the results of a jaxpr, evaluated on values equation by equation.

    Args:
      jaxpr: the jaxpr.
      constants, arguments: its constants and arguments.
      rewritten: primitives in terms of others, as in `Pointwise.rewritten`.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(constant, constants)))
    values.update(zip(jaxpr.invars, arguments))

    def read(atom: Any) -> Any:
        if not isinstance(atom, Literal):
            return values[atom]
        aval: Any = atom.aval
        return constant(np.asarray(atom.val, aval.dtype))

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        values.update(zip(equation.outvars, _apply(equation, operands, rewritten)))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list[Value], rewritten: Mapping[str, Callable[..., Array]]) -> list[Value]:
    """Returns the results of one equation of a jaxpr."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        called = _called(equation)
        return _evaluate(called.jaxpr, called.consts, operands, rewritten)
    if all(operand.constant for operand in operands):
        with jax.ensure_compile_time_eval():
            results = equation.primitive.bind(*(jnp.asarray(x.numpy()) for x in operands), **params)
        return [constant(result) for result in (results if equation.primitive.multiple_results else [results])]
    if name in _MOVES:
        # Moving the indices of entries moves the entries.
        moved = _MOVES[name](*_indices(operands), **params)
        entries = [entry for operand in operands for entry in operand.entries]
        return [Value(entries, index) for index in (moved if isinstance(moved, list) else [moved])]
    if name in _REDUCTIONS:
        return [_reduced(_REDUCTIONS[name], operands[0], tuple(params["axes"]), equation.outvars[0].aval.dtype)]
    return [_each(equation, operands, rewritten.get(name, equation.primitive.bind))]


def _indices(operands: list[Value]) -> list[np.ndarray]:
    """Returns where the entries of each operand are in the entries of all operands, one list behind the other."""
    starts = np.cumsum([0, *(len(operand.entries) for operand in operands)])
    return [operand.index + start for operand, start in zip(operands, starts)]


def _reduced(combine: Callable[..., Any], x: Value, axes: tuple[int, ...], dtype: Any) -> Value:
    """Returns a value with some of its axes reduced, by combining whole tiles."""
    remaining = [axis for axis in range(x.index.ndim) if axis not in axes]
    shape = [x.index.shape[axis] for axis in remaining]
    # [results, terms of each]
    terms = x.index.transpose(*remaining, *axes).reshape(math.prod(shape), -1)
    tile_shape = next(entry.shape for entry in x.flat() if not isinstance(entry, np.generic))
    rows = [[_tile(x.entries[i], tile_shape, dtype) for i in row] for row in terms]
    return value([functools.reduce(combine, row) for row in rows], tuple(shape))


def _each(equation: Any, operands: list[Value], function: Callable[..., Array]) -> Value:
    """Applies a primitive, by a function, to every entry by itself.

    Raises:
      NotImplementedError: for a primitive that is not known to be pointwise.
    """
    shape = equation.outvars[0].aval.shape if equation.outvars else ()  # a callback may give nothing
    pointwise = equation.primitive.name in _POINTWISE
    if not pointwise or any(not _broadcasts(x.index.shape, shape) for x in operands):
        raise NotImplementedError(f"gates use {equation.primitive.name}, which is not known to be pointwise")
    columns = [Value(x.entries, np.broadcast_to(x.index, shape)).flat() for x in operands]
    dtypes = [atom.aval.dtype for atom in equation.invars]
    bind = functools.partial(function, **equation.params)
    results = []
    for entries in zip(*columns):
        tile = next((entry for entry in entries if not isinstance(entry, np.generic)), None)
        if tile is None:
            with jax.ensure_compile_time_eval():
                # `[()]` makes a scalar of an array without axes.
                results.append(np.asarray(bind(*map(jnp.asarray, entries)))[()])
        else:
            results.append(bind(*(_tile(entry, tile.shape, dtype) for entry, dtype in zip(entries, dtypes))))
    return value(results, shape)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Returns whether a pointwise primitive accepts an operand of one shape for a result of another."""
    return shape == () or (len(shape) == len(to) and all(a in (1, b) for a, b in zip(shape, to)))


def _log1p(x: Array, **_: Any) -> Array:
    """Returns log(1 + x) by Kahan's formula, which corrects for the rounding of 1 + x."""
    wide = 1 + x
    return jax.lax.select(wide == 1, x, jnp.log(wide) * (x / jax.lax.select(wide == 1, wide, wide - 1)))


def _expm1(x: Array, **_: Any) -> Array:
    """Returns exp(x) - 1 by Kahan's formula, which corrects for the rounding of exp(x).

    No correction is needed where abs(x) > 1, and none is possible where exp(x) rounds to 1: the result there is x.
    """
    exponential = jnp.exp(x)
    plain = (jnp.abs(x) > 1) | (exponential == 1)
    corrected = (exponential - 1) * (x / jax.lax.select(plain, jnp.ones_like(x), jnp.log(exponential)))
    return jax.lax.select(exponential == 1, x, jax.lax.select(plain, exponential - 1, corrected))


def _pad(x: np.ndarray, filler: np.ndarray, *, padding_config: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Returns what `jax.lax.pad` does, which NumPy has only without negative and interior padding."""
    for axis, (low, high, step) in enumerate(padding_config):
        size = x.shape[axis] + max(x.shape[axis] - 1, 0) * step
        spaced = np.full((*x.shape[:axis], size, *x.shape[axis + 1 :]), filler[()])
        spaced[(slice(None),) * axis + (slice(None, None, step + 1),)] = x
        margins = [(0, 0)] * axis + [(max(low, 0), max(high, 0))] + [(0, 0)] * (x.ndim - axis - 1)
        x = np.pad(spaced, margins, constant_values=filler[()])
        inside = slice(max(-low, 0), x.shape[axis] - max(-high, 0))  # negative padding removes entries
        x = x[(slice(None),) * axis + (inside,)]
    return x


def _broadcast(x: np.ndarray, *, shape: Sequence[int], broadcast_dimensions: Sequence[int], **_: Any) -> np.ndarray:
    placed = [1] * len(shape)
    for size, axis in zip(x.shape, broadcast_dimensions):
        placed[axis] = size
    return np.broadcast_to(x.reshape(placed), shape)


def _slice(x: np.ndarray, *, start_indices: Any, limit_indices: Any, strides: Any) -> np.ndarray:
    return x[tuple(map(slice, start_indices, limit_indices, strides or (1,) * x.ndim))]


# Primitives in terms of others that kernels have.
_REWRITTEN: dict[str, Callable[..., Array]] = {"add_any": jax.lax.add, "expm1": _expm1, "log1p": _log1p}
# By name, since nothing else tells them from those that keep a shape, such as cumulative sums.
_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil clamp
complex conj convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac
imag integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul ne neg nextafter not one_minus_square or
polygamma polynomial pow real reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta
"""
_POINTWISE = frozenset(_NAMES.split())
_REDUCTIONS = {
    "reduce_sum": jax.lax.add,
    "reduce_max": jax.lax.max,
    "reduce_min": jax.lax.min,
    "reduce_prod": jax.lax.mul,
}
# Rules of custom derivatives are not needed: `jax.vjp` has applied them before the gradients are traced.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"}
_MOVES = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "copy": lambda x: x,
    "pad": _pad,
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "rev": lambda x, *, dimensions: np.flip(x, dimensions),
    "slice": _slice,
    "stop_gradient": lambda x: x,
    "split": lambda x, *, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis),
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "unstack": lambda x, *, axis: list(np.moveaxis(x, axis, 0)),
    "squeeze": lambda x, *, dimensions: np.squeeze(x, tuple(dimensions)),
    "transpose": lambda x, *, permutation: x.transpose(permutation),
}
