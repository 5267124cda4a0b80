"""Properties of cells that allow faster ways to unroll them than repeating the step."""

from __future__ import annotations

from typing import Any, TypeGuard

import jax
from jax.core import Tracer
from jaxtyping import Array

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.diagonal_cell import DiagonalCell
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.hidden_cell import HiddenCell
from rnnjax.cells.linear_cell import LinearCell
from rnnjax.cells.lstm import LSTM
from rnnjax.cells.memory_cell import MemoryCell


def is_gated(cell: Any) -> TypeGuard[GatedCell]:
    """Returns whether a cell is gated, whatever its step."""
    return isinstance(cell, GatedCell)


def is_linear(cell: Any) -> TypeGuard[LinearCell]:
    """Returns whether a cell's new state is that of `LinearCell`: its coefficients say all of it."""
    return isinstance(cell, LinearCell) and (type(cell).step, type(cell).advance) == (Cell.step, LinearCell.advance)


def has_memory(cell: Any) -> TypeGuard[MemoryCell]:
    """Returns whether a cell's step is that of `MemoryCell`: its association says all of it."""
    if not isinstance(cell, MemoryCell):
        return False
    kind = type(cell)
    told = not is_linear(cell) or is_told_of(cell, "association", "coefficients")
    advances = kind.advance in (MemoryCell.advance, LinearCell.advance)
    return told and advances and (kind.step, kind.read) == (Cell.step, MemoryCell.read)


def is_diagonal(cell: Any) -> TypeGuard[DiagonalCell]:
    """Returns whether a cell is diagonal, and takes its steps as `DiagonalCell` does."""
    return isinstance(cell, DiagonalCell) and type(cell).step is Cell.step


def sums_gates(cell: Any) -> TypeGuard[DiagonalCell]:
    """Returns whether a cell's new state is that of `DiagonalCell`: its gates say all of it."""
    return is_diagonal(cell) and type(cell).advance is DiagonalCell.advance


def keeps_units_apart(cell: Cell) -> bool:
    """Returns whether the new state of each unit of a cell follows from that unit's state alone."""
    return is_diagonal(cell) or is_linear(cell)


def is_lstm(cell: Any) -> TypeGuard[LSTM]:
    """Returns whether a cell is an `LSTM` itself, and no class of one's own that derives from it."""
    return type(cell) is LSTM


def attends(cell: Any) -> bool:
    """Returns whether a cell, or a class of cells, attends to a memory, and has `attention_weights` over it."""
    return hasattr(cell, "attention_weights")


def fuses(cell: Cell | None) -> TypeGuard[GatedCell]:
    """Returns whether a cell's step is that of `GatedCell`: one product, then `gates`."""
    if not is_gated(cell):
        return False
    kind = type(cell)
    return (kind.step, kind.advance, kind.read) == (GatedCell.step, GatedCell.advance, GatedCell.read)


def projects_inputs(cell: HiddenCell) -> bool:
    """Returns whether a cell's z is what its `gate_inputs` makes of ``xs @ w_x``, wherever that comes from."""
    return type(cell).inputs is HiddenCell.inputs


def outputs_its_state(cell: Cell) -> TypeGuard[GatedCell]:
    """Returns whether a cell's outputs are its hidden states."""
    return fuses(cell) and (type(cell).outputs, type(cell).over_time) == (Cell.outputs, GatedCell.over_time)


def adds_a_bias(cell: Cell, params: Params, xs: Array | None) -> bool:
    """Returns whether a cell's z is known to be ``xs @ w_x``, with or without something added that is no input.

    Each step's z then depends on its own input only, and can be computed at any time. The answer is read off the jaxpr
    of `gate_inputs`: the projected inputs must be read once, by an addition of what is the same for all steps and
    sequences. It is no without inputs (None).
    """
    if xs is None or not isinstance(cell, HiddenCell):
        return False
    if not projects_inputs(cell) or type(cell).project is not HiddenCell.project:
        return False
    zs = jax.eval_shape(cell.project, params.w_x, xs)
    closed = jax.make_jaxpr(cell.gate_inputs)(params, zs)
    if any(isinstance(value, Tracer) for value in closed.consts):  # where z is made later, it may be of another trace
        return False
    jaxpr = closed.jaxpr
    projected = jaxpr.invars[-1]
    readers = [equation for equation in jaxpr.eqns for v in equation.invars if v is projected]
    if not readers:  # nothing is added: the projected inputs are the result
        return jaxpr.outvars == [projected]
    if len(readers) > 1 or readers[0].primitive.name != "add" or readers[0].outvars != jaxpr.outvars:
        return False
    (added,) = (v.aval for v in readers[0].invars if v is not projected)
    return all(size == 1 for size in added.shape[:-2])


def is_told_of(cell: Cell, name: str, *described: str) -> bool:
    """Returns whether what an attribute tells of some methods is told of the cell's own.

    It is not where a class below the one that has the attribute overrides one of the methods.

    Args:
      cell: the cell.
      name: of the attribute.
      *described: names of the methods.
    """
    order = type(cell).__mro__
    place = next(place for place, kind in enumerate(order) if name in vars(kind))
    return not any(method in vars(kind) for kind in order[:place] for method in described)


def makes_z_by_step(cell: Cell, params: Params, xs: Array | None) -> bool:
    """Returns whether z of each step is known to depend on its own input only, so that it can be made at any time."""
    if xs is None or not isinstance(cell, HiddenCell):
        return False
    told = cell.inputs_by_step and is_told_of(cell, "inputs_by_step", "inputs")
    return told or adds_a_bias(cell, params, xs)


def reads_a_sum(cell: GatedCell, params: Params, state: State, z: Any, r: Array) -> bool:
    """Returns whether a cell's gates read ``z`` and ``r`` in ``z + r`` only, as those of most cells do.

    The answer is read off the jaxpr of `gates`: z and r must have one reader, their addition.

    Args:
      cell: the cell.
      params: its parameters.
      state: the state of one step, each leaf ``[*batch, ...]``, or its shapes and types.
      z: the projected inputs of one step, likewise.
      r: the product of the hidden state ``[*batch, G, H]``, likewise.
    """
    jaxpr = jax.make_jaxpr(cell.gates)(params, state, z, r).jaxpr
    terms = set(map(id, jaxpr.invars[-1 - len(jax.tree.leaves(z)) :]))
    readers = [equation for equation in jaxpr.eqns if not terms.isdisjoint(map(id, equation.invars))]
    sums = [e for e in readers if e.primitive.name == "add" and terms == set(map(id, e.invars))]
    return len(terms) == 2 and len(readers) == len(sums) == 1 and terms.isdisjoint(map(id, jaxpr.outvars))
