"""Trees of stacks and wrappers: what a cell is in one, and its first and last cell, replaced or found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeGuard

import jax

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.traits import keeps_units_apart
from rnnjax.cells.wrapper import Wrapper
from rnnjax.cells.wrappers import Project, Residual, Stack

Change = Callable[[Cell], Cell]
Condition = Callable[[Cell], bool]


def made_of_cells(kind: type[Cell]) -> bool:
    """Returns whether a class of cells is that of stacks or of wrappers."""
    return issubclass(kind, (Stack, Wrapper))


def holds_cells(cell: Cell) -> bool:
    """Returns whether a cell is a stack or a wrapper, in which the first and the last cell are looked for."""
    return made_of_cells(type(cell))


def is_stack(cell: Cell) -> TypeGuard[Stack]:
    """Returns whether a cell is a stack whose layers are taken one after the other, and nothing else is done."""
    return isinstance(cell, Stack) and (type(cell).over_time, type(cell).outputs) == (Stack.over_time, Stack.outputs)


def hands_inputs_on(cell: Cell) -> bool:
    """Returns whether the first cell in a stack or wrapper is given its inputs as they are."""
    return is_stack(cell) or (isinstance(cell, Wrapper) and not cell.reads_inputs)


def first_that_mixes_units(cell: Cell) -> Cell | None:
    """Returns a cell in a cell that is repeated over time and is neither linear nor diagonal; None if all are.

    A wrapper that takes part in every step is not, whatever it is around.
    """
    if is_stack(cell):
        return next(filter(None, map(first_that_mixes_units, cell.cells)), None)
    if isinstance(cell, Wrapper):
        return cell if cell.in_time(jax.random.key(0)) else first_that_mixes_units(cell.cell)
    return None if keeps_units_apart(cell) else cell


def has_dense(cell: Cell) -> TypeGuard[Project]:
    """Returns whether a cell is another with a dense layer behind it, and nothing else."""
    return type(cell) is Project


def has_no_params_of_its_own(cell: Cell) -> TypeGuard[Wrapper]:
    """Returns whether a cell is a wrapper whose parameters are those of the wrapped cell."""
    return isinstance(cell, Wrapper) and type(cell).inner is Wrapper.inner and cell.params_are_of_init


def given_its_inputs(cell: Cell) -> Cell:
    """Returns the cell in a wrapper that gives it inputs which are projected already; any other cell as it is."""
    return cell.cell if isinstance(cell, Wrapper) and not cell.params_are_of_init else cell


def needed_input_size(cell: Cell) -> int | None:
    """Returns the only number of features that a cell itself can be given; None where it does not matter to it."""
    return cell.output_size if isinstance(cell, Residual) else None


def with_first(cell: Cell, change: Change, descend: Condition = holds_cells) -> Cell:
    """Returns a cell in which the first cell, the one that reads the inputs, is replaced.

    Args:
      cell: the cell.
      change: returns the replacement of the first cell.
      descend: whether to go on to the cells in a stack or wrapper; where it is false, that is the first cell.
    """
    return _replaced(cell, 0, change, descend)


def with_last(cell: Cell, change: Change, descend: Condition = holds_cells) -> Cell:
    """Returns a cell in which the last cell, the one that computes the outputs, is replaced, as `with_first` does."""
    return _replaced(cell, -1, change, descend)


def first_with_params(cell: Cell, params: Params, descend: Condition = holds_cells) -> tuple[Cell, Params]:
    """Returns the first cell in a cell, and its part of the parameters; `descend` is as in `with_first`."""
    if not (holds_cells(cell) and descend(cell)):
        return cell, params
    if isinstance(cell, Stack):
        return first_with_params(cell.cells[0], params[0], descend)
    wrapper: Any = cell
    return first_with_params(wrapper.cell, wrapper.inner(params), descend)


def last_with_state(cell: Cell, state: State, descend: Condition = holds_cells) -> tuple[Cell, State]:
    """Returns the last cell in a cell, and its part of the state; `descend` is as in `with_first`."""
    if not (holds_cells(cell) and descend(cell)):
        return cell, state
    if isinstance(cell, Stack):
        return last_with_state(cell.cells[-1], state[-1], descend)
    wrapper: Any = cell
    return last_with_state(wrapper.cell, state, descend)


def _replaced(cell: Cell, layer: int, change: Change, descend: Condition) -> Cell:
    """Returns a cell with the one that is reached by going to the same layer of every stack replaced."""
    if not (holds_cells(cell) and descend(cell)):
        return change(cell)
    if isinstance(cell, Stack):
        cells = list(cell.cells)
        cells[layer] = _replaced(cells[layer], layer, change, descend)
        return dataclasses.replace(cell, cells=tuple(cells))
    wrapper: Any = cell
    return dataclasses.replace(wrapper, cell=_replaced(wrapper.cell, layer, change, descend))
