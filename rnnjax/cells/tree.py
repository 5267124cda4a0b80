"""The first and the last cell of a tree of stacks and wrappers: changed, or found with what belongs to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.wrapper import Wrapper
from rnnjax.cells.wrappers import Stack

Change = Callable[[Cell], Cell]
Holds = Callable[[Cell], bool]


def holds_cells(cell: Cell) -> bool:
    """Returns whether a cell is a stack or a wrapper, in which the first and the last cell are looked for."""
    return isinstance(cell, (Stack, Wrapper))


def with_first(cell: Cell, change: Change, enter: Holds = holds_cells) -> Cell:
    """Returns the cell with the first one in it, which reads the inputs, changed.

    Args:
      cell: the cell.
      change: returns a cell in the place of the first.
      enter: whether to look for it inside of a stack or wrapper, or to take that as the first cell.
    """
    return _changed(cell, 0, change, enter)


def with_last(cell: Cell, change: Change, enter: Holds = holds_cells) -> Cell:
    """Returns the cell with the last one in it, which makes the outputs, changed; arguments are as in `with_first`."""
    return _changed(cell, -1, change, enter)


def first_with_params(cell: Cell, params: Params, enter: Holds = holds_cells) -> tuple[Cell, Params]:
    """Returns the first cell in a cell, and its part of the parameters; `enter` is as in `with_first`."""
    if not (holds_cells(cell) and enter(cell)):
        return cell, params
    if isinstance(cell, Stack):
        return first_with_params(cell.cells[0], params[0], enter)
    wrapper: Any = cell
    return first_with_params(wrapper.cell, wrapper.inner(params), enter)


def last_with_state(cell: Cell, state: State, enter: Holds = holds_cells) -> tuple[Cell, State]:
    """Returns the last cell in a cell, and its part of the state; `enter` is as in `with_first`."""
    if not (holds_cells(cell) and enter(cell)):
        return cell, state
    if isinstance(cell, Stack):
        return last_with_state(cell.cells[-1], state[-1], enter)
    wrapper: Any = cell
    return last_with_state(wrapper.cell, state, enter)


def _changed(cell: Cell, which: int, change: Change, enter: Holds) -> Cell:
    if not (holds_cells(cell) and enter(cell)):
        return change(cell)
    if isinstance(cell, Stack):
        cells = list(cell.cells)
        cells[which] = _changed(cells[which], which, change, enter)
        return dataclasses.replace(cell, cells=tuple(cells))
    wrapper: Any = cell
    return dataclasses.replace(wrapper, cell=_changed(wrapper.cell, which, change, enter))
