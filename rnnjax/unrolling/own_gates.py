"""Whether a cell of the user's own reads a gate that it does not have, where JAX would give it the last one instead."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rnnjax.cells.blocks import in_blocks
from rnnjax.cells.cell import Cell, Params, State, compute_dtype
from rnnjax.cells.checks import check_hidden
from rnnjax.cells.gated_cell import GatedCell, recurrent_product
from rnnjax.cells.hidden_cell import HiddenCell
from rnnjax.cells.traits import fuses, is_linear, projects_inputs, sums_gates
from rnnjax.errors import first_line


def check_own_gates(cell: Cell, params: Params, state: State, zs: Any) -> None:
    """Raises if the equations of a user's own cell read outside of their arrays; the library's are not looked at.

    Args:
      cell: the cell.
      params: its parameters.
      state: its state, each leaf ``[*batch, ...]``.
      zs: what `inputs` returned, each leaf ``[T, ...]``.

    Raises:
      TypeError: if the state has no h, and the cell's kind needs it.
      ValueError: for a gate that there is not.
    """
    if type(cell).__module__.startswith("rnnjax."):
        return
    z = jax.tree.map(lambda leaf: _constant(leaf.shape[1:], leaf.dtype), zs)
    if fuses(cell):
        check_hidden(cell, state)
        _check_weight(cell, params, state)
        product = jax.eval_shape(lambda: recurrent_product(state.h, cell.recurrent_weight(params), compute_dtype(zs)))
        _read(cell, cell.gates, params, state, z, _constant(product.shape, product.dtype))
    elif sums_gates(cell):
        check_hidden(cell, state)
        shape = (*state.h.shape[:-1], *params.w_h.shape)
        _read(cell, cell.gates, params, state, z, _constant(shape, state.h.dtype))
    elif is_linear(cell):
        _read(cell, cell.coefficients, params, z)


def _check_weight(cell: GatedCell, params: Params, state: State) -> None:
    """Raises unless a cell's recurrent weight multiplies as many units as the state's h has."""
    weight, units = jax.eval_shape(cell.recurrent_weight, params), state.h.shape[-1]
    if not in_blocks(weight) and weight.shape[0] != units:
        raise ValueError(
            f"{type(cell).__name__} has a recurrent weight for {weight.shape[0]} units, as many as its output_size if "
            f"it is GatedCell's, and a state whose h has {units}; have h be what GatedCell multiplies, or override init"
        )


def _read(cell: HiddenCell, equations: Any, *arguments: Any) -> None:
    """Raises if equations read outside of their arguments, which NumPy tells of those that are its arrays."""
    try:
        with np.errstate(all="ignore"):
            jax.eval_shape(lambda: equations(*arguments))
    except IndexError as error:
        remedy = f"set gate_count, which is {cell.gate_count}, to" if projects_inputs(cell) else "have inputs make"
        raise ValueError(
            f"{type(cell).__name__}.{equations.__name__} reads outside of its arrays ({first_line(error)}); "
            f"{remedy} the number of gates that it reads"
        ) from error
    except Exception:  # NumPy's arrays are not all that JAX's are; what is wrong besides, the trace with JAX's will say
        return


def _constant(shape: tuple[Any, ...], dtype: Any) -> Any:
    """Returns ones that take no memory, of NumPy where it has such sizes and numbers."""
    try:
        return np.broadcast_to(np.ones((), dtype), shape)
    except (TypeError, ValueError):  # sizes that are symbols, keys of random numbers
        return jax.ShapeDtypeStruct(shape, dtype)
