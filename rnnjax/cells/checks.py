"""Checks of a cell's parameters, state and inputs, each of which raises an error of one sentence."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rnnjax.cells.sizes import as_batch_size

_UNTRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def check_floating(name: str, xs: Any) -> None:
    """Raises unless `xs` holds floating-point numbers."""
    dtype = jnp.result_type(xs)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {dtype}; convert it, for example with {name}.astype('float32')"
        )


def check_switch(name: str, value: Any) -> bool:
    """Returns an option that is on or off, raising unless it is a bool that is known when a program is traced."""
    if not isinstance(value, (bool, np.bool_)):
        got = "a traced value, which a static argument of jax.jit is not" if isinstance(value, Tracer) else repr(value)
        raise TypeError(f"{name} must be True or False, got {got}")
    return bool(value)


def check_rates(fields: Any, *names: str) -> None:
    """Raises unless these fields are rates of dropout, in [0, 1)."""
    for name in names:
        if not 0 <= getattr(fields, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(fields, name)}")


def check_params(cell: Any, params: Any, input_size: int) -> None:
    """Raises unless `params` have the structure, shapes and kinds of types that the cell's `init` returns."""
    params = _of_init(params)
    expected = _expected_params(cell, input_size)
    if expected is None or _alike(params, expected):
        return
    check_structure(cell, params, input_size)
    leaves = jax.tree.leaves(params)
    pairs = zip(leaves, jax.tree.leaves(expected))
    not_floating = next((leaf for leaf, like in pairs if not _same_kind(leaf, like)), None)
    if not_floating is not None:
        raise TypeError(f"params must be floating point, got {jnp.result_type(not_floating)} in {describe(params)}")
    # The first parameter of most cells has the number of features first: if all is well for it, the inputs are wrong.
    first = np.shape(leaves[0])
    if first and first[0] and _alike(params, _expected_params(cell, first[0])):
        raise ValueError(f"xs has {input_size} features, but the cell was initialised for {first[0]}")
    raise ValueError(
        f"params must have the shapes that {cell!r} has for {input_size} features, {describe(expected)}, "
        f"got {describe(params)}"
    )


def check_structure(cell: Any, params: Any, input_size: int = 1) -> None:
    """Raises unless `params` are built as those that the cell's `init` gives, whatever their shapes."""
    params, expected = _of_init(params), _expected_params(cell, input_size)
    if expected is not None and jax.tree.structure(params) != jax.tree.structure(expected):
        raise TypeError(f"params must be those of {cell!r}, a {describe(expected)}, got {describe(params)}")


def _of_init(params: Any) -> Any:
    """Returns parameters without what was put among them later, such as a memory that is attended to."""
    has_more = lambda part: hasattr(part, "of_init")  # noqa: E731
    return jax.tree.map(lambda part: part.of_init() if has_more(part) else part, params, is_leaf=has_more)


@functools.lru_cache(maxsize=256)
def _expected_params(cell: Any, input_size: int) -> Any:
    """Returns the shapes and types of a cell's parameters; None if `init` does not tell."""
    if not all(part.params_are_of_init for part in cell.parts()):
        return None
    try:
        return jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    except (*_UNTRACEABLE, ValueError):  # drawn by NumPy; or refused for this size, which the cell will say itself
        return None


def _alike(params: Any, expected: Any) -> bool:
    if expected is None or jax.tree.structure(params) != jax.tree.structure(expected):
        return False
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(expected))
    return all(np.shape(leaf) == like.shape and _same_kind(leaf, like) for leaf, like in pairs)


def _same_kind(leaf: Any, like: jax.ShapeDtypeStruct) -> bool:
    """Returns whether a parameter is floating point if that of `init` is."""
    if not jnp.issubdtype(like.dtype, jnp.floating):
        return True
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def check_state(cell: Any, state: Any, batch: tuple[int, ...], dtype: Any) -> Any:
    """Returns `state` in the types of the cell's state, raising unless it has its structure, shapes and kinds of types.

    Args:
      cell: the cell.
      state: the state to check.
      batch: the batch axes of the inputs.
      dtype: type of the inputs.
    """
    expected = jax.eval_shape(lambda: cell.initial_state(as_batch_size(batch), dtype))
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise TypeError(f"state must be a {describe(expected)}, got {describe(state)}")
    if [np.shape(leaf) for leaf in jax.tree.leaves(state)] != [like.shape for like in jax.tree.leaves(expected)]:
        raise ValueError(
            f"state must have the shapes {describe(expected)} for inputs with the batch axes {list(batch)}, "
            f"got {describe(state)}"
        )
    for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(expected)):
        got = jnp.result_type(leaf)
        if jnp.issubdtype(got, jnp.complexfloating) and not jnp.issubdtype(like.dtype, jnp.complexfloating):
            raise TypeError(f"state must be of real numbers like {like.dtype}, got {got}")
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), state, expected)


def check_new_state(cell: Any, new: Any, state: Any) -> None:
    """Raises unless the state after a step has the structure and the shapes of the one before it."""
    alike = jax.tree.structure(new) == jax.tree.structure(state)
    if not alike or [*map(np.shape, jax.tree.leaves(new))] != [*map(np.shape, jax.tree.leaves(state))]:
        name, kind, like = type(cell).__name__, type(state).__name__, describe(state)
        raise TypeError(
            f"{name} must make a new state that is built as the old one, {like}, got {describe(new)}; return a {kind} "
            "of such shapes"
        )


def check_hidden(cell: Any, state: Any, otherwise: str = "derive the cell from rnnjax.Cell") -> None:
    """Raises unless a state has the field `h` that is read of it; `otherwise` says what to do without one."""
    if not hasattr(state, "h"):
        raise TypeError(
            f"{type(cell).__name__} must have a state with a field h, got {describe(state)}; have initial_state return "
            f"a NamedTuple with h, such as rnnjax.HiddenState, or {otherwise}"
        )


def check_new_types(cell: Any, new: Any, state: Any) -> None:
    """Raises unless the state after a step has the types of the one before it, whose structure it has."""
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new)):
        was, got = jnp.result_type(before), jnp.result_type(after)
        if was != got and not jax.typeof(before).weak_type:
            raise TypeError(
                f"{type(cell).__name__} must make a new state of the types of the old one, got {got} for {was}; "
                "cast what the step returns, or have initial_state return what it casts to"
            )


def describe(state: Any) -> str:
    """Returns a tree's structure with the shapes of its arrays, such as ``LSTMState(h=[4, 8], c=[4, 8])``."""
    return str(jax.tree.map(lambda leaf: _Shape(np.shape(leaf)), state))


class _Shape:
    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def __repr__(self) -> str:
        return str(list(self.shape))
