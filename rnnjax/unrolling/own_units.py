"""Whether a cell's equations give the same numbers by parts as for all at once, where a method takes them by parts.

What a cell of one's own says of itself is tried out on random numbers, as nothing else would tell that it is not so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells.cell import Cell, compute_dtype
from rnnjax.cells.gated_cell import recurrent_product
from rnnjax.unrolling.recurrence import Recurrence

_ROWS = 2
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 3e-2  # the same operations, on arrays of other shapes


def gates_by_unit_differ(recurrence: Recurrence) -> bool:
    """Returns whether a gated cell's gates, evaluated for one hidden unit of one sequence, give another new state.

    So a kernel evaluates them, the cell's `hidden_size` being 1 then.
    """
    cell: Any = recurrence.cell

    def differ(draw: _Draw) -> bool:
        size = recurrence.state.h.shape[-1]
        params, state, z, r = draw.params(), draw.state(), draw.z(), draw.product()
        whole, small = cell.gates(params, state, z, r), dataclasses.replace(cell, hidden_size=1)

        def differs_at(row: int, unit: int) -> bool:
            def of_unit(leaf: Array) -> Array:
                return leaf[..., unit : unit + 1] if leaf.shape[-1:] == (size,) else leaf

            given, wanted = jax.tree.map(lambda leaf: of_unit(leaf[row]), ((state, z, r), whole))
            return _differ(small.gates(jax.tree.map(of_unit, params), *given), wanted)

        return differs_at(0, 0) or differs_at(_ROWS - 1, size - 1)

    return _tried(recurrence, differ)


def steps_read_others(recurrence: Recurrence, *, by_unit: bool) -> bool:
    """Returns whether the new state of a sequence, or of one of its hidden units, follows from that of others.

    Args:
      recurrence: the recurrence.
      by_unit: whether hidden units, the last axis of every leaf, are asked about as well.
    """

    def step(params: Any, state: Any, z: Any) -> Any:
        return recurrence.cell.step(params, state, z)[0]

    def differ(draw: _Draw) -> bool:
        params, z, one = draw.params(), draw.z(), draw.state()
        other = jax.tree.map(lambda leaf: 1 + 2 * leaf, one)  # far from it
        whole = step(params, one, z)

        def differs_at(place: tuple[Any, ...]) -> bool:
            mixed = jax.tree.map(lambda a, b: a.at[place].set(b[place]), other, one)
            return _differ(*(jax.tree.map(lambda leaf: leaf[place], of) for of in (step(params, mixed, z), whole)))

        first, last = ((0, ..., 0), (_ROWS - 1, ..., -1)) if by_unit else ((0,), (_ROWS - 1,))
        row, wanted, z_of_row = jax.tree.map(lambda leaf: leaf[_ROWS - 1 :], (one, whole, z))
        return differs_at(first) or differs_at(last) or _differ(step(params, row, z_of_row), wanted)

    return _tried(recurrence, differ)


def steps_together_differ(recurrence: Recurrence) -> bool:
    """Returns whether two steps at once, along one more leading axis, give other numbers than each by itself."""

    def differ(draw: _Draw) -> bool:
        step, params = recurrence.cell.step, draw.params()
        first, second = ((draw.state(), draw.z()) for _ in range(2))
        together = step(params, *jax.tree.map(lambda *steps: jnp.stack(steps), first, second))
        return _differ(jax.tree.map(lambda leaf: leaf[1], together), step(params, *second))

    return _tried(recurrence, differ)


def _tried(recurrence: Recurrence, differ: Callable[[_Draw], bool]) -> bool:
    """Returns what a trial says; False for the library's own equations, and where there is none to be made."""
    if not _may_be_own(recurrence.cell) or not _has_rows(recurrence):
        return False
    try:
        if _has_effects(recurrence):
            return False
        with jax.ensure_compile_time_eval():
            return differ(_Draw(recurrence))
    except Exception:  # whatever a cell of one's own does: what is wrong with it, its trace will say
        return False


def _may_be_own(cell: Cell) -> bool:
    """Returns whether equations may be a user's own: of a cell's class, a function in its fields, or a cell in them."""
    values = list(vars(cell).values())
    functions = (value for value in values if callable(value) and not isinstance(value, (type, Cell)))
    inner = (value for value in values if isinstance(value, Cell))
    return not type(cell).__module__.startswith("rnnjax.") or any(functions) or any(map(_may_be_own, inner))


def _has_effects(recurrence: Recurrence) -> bool:
    """Returns whether a step prints, or calls the host, which random numbers are not for."""
    z = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), recurrence.steps.z)
    step = jax.make_jaxpr(recurrence.cell.step)
    return bool(step(*jax.tree.map(_as_shape, (recurrence.params, recurrence.state)), z).effects)


def _as_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _has_rows(recurrence: Recurrence) -> bool:
    """Returns whether all arrays but the parameters have the batch's axes, so that others can be drawn."""
    state, z = jax.tree.leaves(recurrence.state), jax.tree.leaves(recurrence.steps.z)
    batch = state[0].shape[:-1]
    shapes = [leaf.shape for leaf in state] + [leaf.shape[1:] for leaf in z]
    return all(shape[: len(batch)] == batch for shape in shapes)


class _Draw:
    """Random numbers in the place of the arrays of a recurrence, with one batch axis."""

    def __init__(self, recurrence: Recurrence):
        self._recurrence: Any = recurrence
        self._numbers = np.random.default_rng(0)
        self._batch_axes = jax.tree.leaves(recurrence.state)[0].ndim - 1

    def params(self) -> Any:
        return jax.tree.map(lambda leaf: self.like(leaf, leaf.shape), self._recurrence.params)

    def state(self) -> Any:
        return self._of_rows(self._recurrence.state, self._batch_axes)

    def z(self) -> Any:
        return self._of_rows(self._recurrence.steps.z, self._batch_axes + 1)  # the first is time

    def product(self) -> Array:
        """Returns numbers in the place of a gated cell's recurrent product, ``[rows, G, H]``."""
        state, cell = self._recurrence.state, self._recurrence.cell
        dtype = compute_dtype(self._recurrence.steps.z)
        r = jax.eval_shape(
            lambda params, h: recurrent_product(h, cell.recurrent_weight(params), dtype),
            self._recurrence.params,
            state.h,
        )
        return self._of_rows(r, self._batch_axes)

    def like(self, leaf: Any, shape: tuple[int, ...]) -> Array:
        """Returns numbers in (0, 1), where most functions are defined, or whole numbers."""
        drawn = 0.1 + 0.8 * self._numbers.random(shape, np.float32)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            drawn = np.round(drawn)
        return jnp.asarray(drawn).astype(leaf.dtype)

    def _of_rows(self, tree: Any, axes: int) -> Any:
        return jax.tree.map(lambda leaf: self.like(leaf, (_ROWS, *leaf.shape[axes:])), tree)


def _differ(one: Any, other: Any) -> bool:
    return not all(map(_close, jax.tree.leaves(one), jax.tree.leaves(other)))


def _close(one: Array, other: Array) -> bool:
    tolerance = _HALF_TOLERANCE if one.dtype.itemsize == 2 else _TOLERANCE
    return np.allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), tolerance, tolerance, equal_nan=True)
