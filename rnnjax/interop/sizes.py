"""The size of a cell's inputs, read off its parameters."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rnnjax.cells import Cell
from rnnjax.cells.cell import Params


def input_size_of(cell: Cell, params: Params) -> int:
    """Returns the number I of features that a cell with these parameters reads.

    Raises:
      ValueError: if the parameters are not the cell's.
    """
    found = _shapes(params)
    for size in sorted({size for shape in jax.tree.leaves(found, is_leaf=_is_shape) for size in shape}):
        if found == _shapes_of_init(cell, size):
            return size
    raise ValueError(f"the parameters are not those of {cell!r}, as its init returns them")


def _shapes_of_init(cell: Cell, input_size: int) -> Any:
    try:
        return _shapes(jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size)))
    except ValueError:  # some cells read inputs of one size only
        return None


def _shapes(params: Params) -> Any:
    return jax.tree.map(np.shape, params)


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and all(isinstance(each, int) for each in value)
