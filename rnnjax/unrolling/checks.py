"""Checks of the arguments of `unroll`, each of which raises an error of one sentence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from rnnjax.cells.cell import Cell, Key
from rnnjax.cells.checks import check_floating
from rnnjax.cells.randomness import TimedKey
from rnnjax.cells.told_apart import check_told_apart
from rnnjax.errors import first_line
from rnnjax.unrolling.recurrence import Method


def check_cell(cell: Any) -> None:
    """Raises unless `cell` is one, and can be a key of compiled programs."""
    if isinstance(cell, Cell):
        _check_hashable("cell", cell)
        check_told_apart(cell)
        return
    got = type(cell).__name__
    if isinstance(cell, type):
        got = f"the class {cell.__name__}"
    elif isinstance(cell, str):
        got = repr(cell)
    raise TypeError(f"cell must be a cell, such as LSTM(128), got {got}")


def _check_hashable(name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"{name} must be hashable, as programs are compiled for it, but {type(value).__name__} is not "
            f"({first_line(error)}); make it a @dataclasses.dataclass(frozen=True) whose fields are hashable, with "
            "tuples for lists, and arrays among its parameters"
        ) from error


def check_inputs(xs: Any) -> Array:
    """Returns `xs` as an array, raising unless it can be a batch of sequences; T = 0 and an empty batch are allowed."""
    try:
        xs = jnp.asarray(xs)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"xs must be an array [*batch, T, I], got {type(xs).__name__}; pass cell, params, xs"
        ) from error
    shape = np.shape(xs)
    if len(shape) < 2:
        raise ValueError(f"xs must have shape [*batch, T, I], two axes at least, got {list(shape)}")
    if shape[-1] == 0:
        raise ValueError(f"xs must have at least one feature, got the shape {list(shape)}")
    check_floating("xs", xs)
    return xs


def check_lengths(lengths: Any, batch: tuple[int, ...], length: int) -> Int[Array, " *B"]:
    """Returns `lengths` as int32, raising unless it has one whole number from 0 to T for each sequence."""
    if not isinstance(lengths, jax.Array):
        # Of an empty list, NumPy does not know that it has whole numbers.
        lengths = np.asarray(lengths, None if np.size(lengths) or hasattr(lengths, "dtype") else np.int32)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"lengths must be whole numbers, got {lengths.dtype}; convert it, for example with lengths.astype('int32')"
        )
    if np.shape(lengths) != batch:
        raise ValueError(f"lengths must have shape [*batch] = {list(batch)}, got {list(np.shape(lengths))}")
    if not isinstance(lengths, Tracer):
        values = np.asarray(lengths)
        outside = values[(values < 0) | (values > length)]
        if outside.size:
            raise ValueError(f"lengths must be between 0 and T = {length}, got {outside.flat[0]}")
    return jnp.asarray(lengths).astype(jnp.int32)


def check_key(key: Any) -> Key:
    """Returns `key`, raising unless it is a single PRNG key of either style, a `TimedKey` of one, or None."""
    given = key.key if isinstance(key, TimedKey) else key
    if given is None:
        return key
    got = f"{type(given).__name__}"
    if isinstance(given, (jax.Array, np.ndarray)):
        typed = jnp.issubdtype(given.dtype, jax.dtypes.prng_key)
        if given.ndim == (0 if typed else 1) and (typed or given.dtype == np.uint32):
            return key
        got = f"{given.dtype}{list(given.shape)}"
    raise TypeError(f"key must be one PRNG key, such as jax.random.key(0), or None for evaluation, got {got}")


def check_flags(name: str, flags: Any, batch: tuple[int, ...], length: int, time_major: bool) -> Bool[Array, "..."]:
    """Returns `resets` or a `mask` as an array, raising unless it has one bool for each step of each sequence.

    Args:
      name: the argument's name, for the error.
      flags: its value.
      batch: the batch axes of the inputs.
      length: their number T of steps.
      time_major: whether time is the first axis.

    Raises:
      ValueError: for another shape.
      TypeError: for another type.
    """
    flags = jnp.asarray(flags)
    if flags.dtype != bool:
        raise TypeError(f"{name} must be bool, got {flags.dtype}; convert it, for example with {name}.astype(bool)")
    shape, axes = ((length, *batch), "[T, *batch]") if time_major else ((*batch, length), "[*batch, T]")
    if np.shape(flags) != shape:
        raise ValueError(f"{name} must have shape {axes} = {list(shape)}, got {list(np.shape(flags))}")
    return flags


def check_method(method: Any) -> Method:
    """Returns `method`, raising unless it is an unrolling method, hashable and told from others."""
    if not isinstance(method, Method):
        raise TypeError(f"method must be an unrolling method such as Scan() or Static(), got {method!r}")
    _check_hashable("method", method)
    check_told_apart(method)
    return method
