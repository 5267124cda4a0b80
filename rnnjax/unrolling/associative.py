"""Unrolling of linear cells by a parallel prefix over time."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from rnnjax.backend import steps_at_once
from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.linear_cell import LinearCell, coefficients_like
from rnnjax.cells.pairs import Complex, is_complex, map_numbers, plus, times
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import is_linear
from rnnjax.dtypes import holding_all
from rnnjax.unrolling.chunks import WHOLE, Chunks
from rnnjax.unrolling.cutting import zero_tangents_where
from rnnjax.unrolling.instead import methods_for, why_not_closed_over, why_not_together
from rnnjax.unrolling.linear_scan import (
    Implementation,
    ScanArrays,
    ScanSettings,
    check_implementation,
    checked_numbers,
    lost_to_resets,
    states_before,
    typed_scan,
    why_not_here,
)
from rnnjax.unrolling.pieces import in_pieces, why_not_in_pieces
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.selecting import all_finite, select, zeros_where


@dataclasses.dataclass(frozen=True)
class Associative(Method):
    """The recurrence of a linear cell for all steps at once: coefficients, `rnnjax.linear_scan`, then outputs.

    Everything but the scan is pointwise, and outside of any loop, in the derivative too, whose scan is one of the same
    kind. Steps past a length, missing ones and resets are made part of the coefficients.

    Attributes:
      implementation, interpret: those of `rnnjax.linear_scan`.
      remat_every: how many steps are computed at once, as for `Scan`: the backward pass computes them again. None: all,
        but on a CPU, in order, as many as its cache holds.

    Raises:
      ValueError: for another implementation, and for numbers below 1; when it runs, for a cell that is not a
        `LinearCell` or overrides its step.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.MinGRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 8))
    """

    keeps_states: ClassVar[bool] = True

    implementation: Implementation | None = None
    interpret: bool = False
    remat_every: int | None = None

    def __post_init__(self):
        check_implementation(self.implementation)
        keep_sizes(self, optional=("remat_every",))

    def why_not(self, recurrence: Recurrence) -> str | None:
        dtype = holding_all(*(leaf.dtype for leaf in jax.tree.leaves(recurrence.state)))
        return (
            _not_linear(recurrence.cell)
            or _not_floating(recurrence)
            or why_not_here(self.implementation, dtype, self.interpret)
            or why_not_in_pieces(recurrence, self.remat_every)
            or self._why_no_tree(recurrence)
            or why_not_folded(self, recurrence)
        )

    def _why_no_tree(self, recurrence: Recurrence) -> str | None:
        if self.implementation != "associative" or isinstance(recurrence.length, int):
            return None
        return (
            f"Associative({self.implementation!r}) makes a tree of a number of steps that is known, got "
            f'{recurrence.length}; use Associative("scan")'
        )

    def run(self, recurrence: Recurrence) -> tuple[Any, State]:
        settings = ScanSettings(self.implementation, interpret=self.interpret)
        return in_pieces(recurrence, self._at_once(recurrence), lambda piece: run_linear(settings, piece))

    def _at_once(self, recurrence: Recurrence) -> int | None:
        """Returns how many steps to compute at once; None for all of them."""
        if self.remat_every is not None or self.implementation not in (None, "scan"):
            return self.remat_every
        numbers = sum(leaf.size for leaf in jax.tree.leaves(recurrence.state))
        return steps_at_once(recurrence.length, numbers)


def _not_linear(cell: Cell) -> str | None:
    """Returns in one sentence that a cell is not linear; None if it is."""
    if is_linear(cell):
        return None
    return (
        f"Associative() takes linear cells whose step is LinearCell's, and {type(cell).__name__} is not one here; "
        f"use {methods_for(cell)}, or Auto(), which chooses a method for each layer"
    )


def _not_floating(recurrence: Recurrence) -> str | None:
    """Returns in one sentence that a state has other numbers than floating-point ones; None if it has not."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(recurrence.state)]
    if all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return None
    name, types = type(recurrence.cell).__name__, ", ".join(map(str, dtypes))
    return f"Associative() takes states of floating-point numbers, and that of {name} has {types}; use Scan()"


def why_not_folded(method: Method, recurrence: Recurrence) -> str | None:
    """Returns in one sentence why the coefficients of all steps cannot be computed at once; None if they can."""
    # Only where resets are made a part of them do coefficients have a derivative that is not JAX's.
    closed_over = None if recurrence.steps.followed is None else why_not_closed_over(method, recurrence)
    return closed_over or why_not_together(method, recurrence)


def run_linear(settings: ScanSettings, recurrence: Recurrence) -> tuple[Any, State]:
    """Returns what `Method.run` does for a linear cell, by one scan for each number in its state."""
    states = _states(settings, recurrence)
    ys, last = outputs_of_states(recurrence, states, settings.chunks), jax.tree.map(lambda leaf: leaf[-1], states)
    return (ys, states) if recurrence.keeps_states else ys, last


def _states(settings: ScanSettings, recurrence: Recurrence) -> State:
    """Returns the states of a linear cell after all steps, by one scan for each number in them."""
    cell: Any = recurrence.cell
    arrays, state = _arrays(recurrence), recurrence.state
    resets, followed = arrays.resets, arrays.followed
    a, b = _folded(cell, arrays) if followed is None else _folded_before_resets(cell, arrays)

    def states_of(h0: Any, a: Any, b: Any) -> Any:
        return typed_scan(settings, ScanArrays(*checked_numbers(a, b, h0), resets, followed))

    states = map_numbers(states_of, state, a, b)
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), states, state)


def outputs_of_states(recurrence: Recurrence, states: State, chunks: Chunks = WHOLE) -> Array:
    """Returns the ``y`` of all steps of a cell whose units do not read each other, from its states after them.

    Args:
      recurrence: the recurrence.
      states: each leaf ``[T, *batch, ...]``.
      chunks: the other parts of the sequence.
    """
    cell: Any = recurrence.cell
    if recurrence.steps.resets is None:
        return cell.read(recurrence.params, states, recurrence.steps.z)
    return _read_before_resets(cell, ScanSettings(None, chunks=chunks), _arrays(recurrence), states)


class _Arrays(NamedTuple):
    """The arrays of a recurrence; `valid` and `followed` are those of `Steps`, `resets` those that are taken."""

    params: Params
    zs: Any
    state: State
    initial: State
    valid: Bool[Array, "T *B"] | None
    resets: Bool[Array, "T *B"] | None
    followed: Bool[Array, "T *B"] | None


def _arrays(recurrence: Recurrence) -> _Arrays:
    zs, valid, resets, followed = recurrence.steps
    return _Arrays(recurrence.params, zs, recurrence.state, recurrence.initial, valid, resets, followed)


def _folded(cell: LinearCell, arrays: _Arrays) -> tuple[State, State]:
    """Returns the coefficients of all steps, of which missing steps and the initial state of resets are a part."""
    length = jax.tree.leaves(arrays.zs)[0].shape[0]
    a, b = coefficients_like(cell, arrays.params, arrays.zs, arrays.state, (length,))
    b = map_numbers(lambda h, b: _over_time(b, h, length), arrays.state, b)
    if arrays.resets is not None:
        a = map_numbers(lambda h, a: _over_time(a, h, length), arrays.state, a)
        from_initial = map_numbers(times, a, arrays.initial)
        b = select(arrays.resets, map_numbers(plus, b, from_initial), b)
    if arrays.valid is not None:
        a = map_numbers(lambda h, a: _over_time(a, h, length), arrays.state, a)
        a = select(arrays.valid, a, map_numbers(_one, a))
        b = zeros_where(~arrays.valid, b)
    return a, b


def _over_time(number: Any, h: Any, length: int) -> Any:
    """Returns a number ``[T, *batch, ...]``, of the shape of the state in all steps."""
    shape = (length, *jax.tree.leaves(h)[0].shape)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape), number)


def _one(number: Any) -> Any:
    """Returns ones of the shape of a number."""
    if is_complex(number):
        return Complex(jnp.ones_like(number.real), jnp.zeros_like(number.imag))
    return jnp.ones_like(number)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _folded_before_resets(cell: LinearCell, arrays: _Arrays) -> tuple[State, State]:
    """Returns `_folded`, with a derivative that is zero where they are not finite and a reset follows.

    It is computed at z = 0 there.
    """
    return _folded(cell, arrays)


@_folded_before_resets.defjvp
def _derivative(cell: LinearCell, primals: tuple[_Arrays], tangents: tuple[_Arrays]) -> tuple[Any, Any]:
    (arrays,), (change,) = primals, tangents
    coefficients = _folded_before_resets(cell, arrays)
    followed: Any = arrays.followed
    bad = followed & ~all_finite(coefficients, followed.ndim)

    def at(params: Params, zs: Any, initial: State) -> tuple[State, State]:
        return _folded(cell, arrays._replace(params=params, zs=zs, initial=initial))

    safe = arrays.params, zeros_where(bad, arrays.zs), arrays.initial
    changes = jax.jvp(at, safe, (change.params, zero_tangents_where(bad, change.zs), change.initial))[1]
    return coefficients, zero_tangents_where(bad, changes)


def _read_before_resets(cell: LinearCell, settings: ScanSettings, arrays: _Arrays, states: State) -> Array:
    """Returns the outputs, without a derivative at steps that are lost to a reset."""
    followed, resets = arrays.followed, arrays.resets
    assert followed is not None
    assert resets is not None
    before = map_numbers(lambda h0, hs: states_before(settings, hs, h0), arrays.state, states)
    lost = lost_to_resets(followed, resets, before, states)
    initial = jax.tree.map(lambda leaf, like: jnp.broadcast_to(leaf, like.shape), arrays.initial, states)
    # Where they are lost their values are as they are, and their derivative is that of what is read in their place.
    values = jax.lax.stop_gradient(cell.read(arrays.params, states, arrays.zs))
    ys = cell.read(arrays.params, select(lost, initial, states), zeros_where(lost, arrays.zs))
    return select(lost, values, ys)
