"""Gated cells whose inputs are already projected, so that a lookup can replace the product."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, GatedCell, Key, Params, Recur, State
from rnnjax.cells.tree import first_with_params, with_first
from rnnjax.cells.weight_drop import WeightDrop
from rnnjax.cells.wrapper import Wrapper
from rnnjax.cells.wrappers import Dropout, LearnedState, Project, Stack
from rnnjax.cells.zoneout import Zoneout


@dataclasses.dataclass(frozen=True)
class Projected(Wrapper):
    """A gated cell that is given ``x W_x`` instead of ``x``: inputs ``[T, *batch, G * H]``, the gates side by side.

    Parameters and state are the cell's own.

    Raises:
      TypeError: for a cell that is not gated, or one that does not project its inputs as `GatedCell` does.
    """

    params_are_of_init = False  # those of the cell itself, for inputs of another size

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.cell, GatedCell):
            raise TypeError(f"Projected takes a gated cell, such as LSTM(128), got {self.cell!r}")
        if type(self.cell).inputs is not GatedCell.inputs:
            name = type(self.cell).__name__
            raise TypeError(
                f"{name} has its own `inputs`; override `gate_inputs` instead, so that a lookup can serve it"
            )

    def inputs(self, params: Any, xs: Float[Array, "T *B GH"], *, key: Key = None) -> Any:
        cell: Any = self.cell
        zs = xs.reshape(*xs.shape[:-1], *params.w_x.shape[1:])
        return cell.gate_inputs(params, zs.astype(cell.dtype or xs.dtype))

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        # Hands on the gated cell itself, without this wrapper, since fused methods run gated cells only.
        ys, state = recur(self.cell, params, self.inputs(params, xs), state, initial)
        return self.cell.outputs(params, ys), state


def projected(cell: Cell, params: Params) -> tuple[Cell, Float[Array, "I G H"]]:
    """Returns the cell for projected inputs, and the weight ``w_x`` to project them with.

    The cell must be gated, or a `Stack` whose first layer is, or such a cell in wrappers that do not change the inputs,
    such as a `Dropout` without an input rate.

    Raises:
      TypeError: as `Projected`.
      ValueError: for a Dropout with an input rate.
    """
    without_projection = with_first(cell, Projected, _leaves_inputs_alone)
    return without_projection, first_with_params(cell, params, _leaves_inputs_alone)[1].w_x


def _leaves_inputs_alone(cell: Cell) -> bool:
    """Returns whether a stack or wrapper gives its inputs unchanged to the first cell inside."""
    if isinstance(cell, Dropout) and cell.input_rate:
        raise ValueError(
            f"input_rate={cell.input_rate} drops entries of the input, but one-hot inputs are looked up, not computed; "
            "leave it out of the first layer"
        )
    return type(cell) in (Stack, Dropout, Project, LearnedState, Zoneout, WeightDrop)
