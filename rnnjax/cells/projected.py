"""Gated cells whose inputs are already projected, so that a lookup can replace the product."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, Key, Params, Recur, State
from rnnjax.cells.checks import check_params, check_structure
from rnnjax.cells.traits import is_gated, projects_inputs
from rnnjax.cells.tree import first_with_params, hands_inputs_on, with_first
from rnnjax.cells.wrapper import Wrapper


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
        if not is_gated(self.cell):
            raise TypeError(
                "inputs are looked up for a gated cell, such as LSTM(128), alone or in stacks and wrappers that leave "
                f"the inputs as they are, which is not so for {self.cell!r}"
            )
        if not projects_inputs(self.cell):
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
    such as a `Dropout` without an input rate (see `Wrapper.reads_inputs`).

    Raises:
      TypeError: as `Projected`, and for parameters of another cell.
      ValueError: for parameters of other shapes.
    """
    without_projection = with_first(cell, Projected, hands_inputs_on)
    check_structure(cell, params)
    w_x = first_with_params(cell, params, hands_inputs_on)[1].w_x
    check_params(cell, params, w_x.shape[0])
    return without_projection, w_x
