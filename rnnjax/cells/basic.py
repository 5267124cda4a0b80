"""The basic recurrent cell."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array

from rnnjax.cells.activations import Activation, activation_function
from rnnjax.cells.cell import GatedCell, GatedParams, HiddenState


@dataclasses.dataclass(frozen=True)
class BasicRNN(GatedCell):
    """The basic recurrent cell (Elman, 1990).

    h' = activation(x W_x + h W_h + b);  y = h'

    Parameters are `GatedParams` with one gate, the state is `HiddenState`.

    Attributes:
      activation: a name (``"tanh"``, ``"relu"``, ``"identity"``, ...) or a pointwise function.

    Raises:
      ValueError: for an unknown activation.
    """

    activation: str | Activation = "tanh"

    def __post_init__(self):
        super().__post_init__()
        activation_function(self.activation)

    def gates(self, params: GatedParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        return HiddenState(activation_function(self.activation)((z + r)[..., 0, :]))
