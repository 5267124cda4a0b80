"""The first and the last cell in a tree of stacks and wrappers: replaced, or found with its parameters or state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.wrapper import Wrapper
from rnnjax.cells.wrappers import Stack

Change = Callable[[Cell], Cell]
Condition = Callable[[Cell], bool]


def holds_cells(cell: Cell) -> bool:
    """Returns whether a cell is a stack or a wrapper, made of other cells."""
    return isinstance(cell, (Stack, Wrapper))


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
