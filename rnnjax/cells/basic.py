"""The basic recurrent cell."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array

from rnnjax.cells.activations import Activation, activation_function
from rnnjax.cells.gated_cell import GatedCell, GatedParams
from rnnjax.cells.hidden_cell import HiddenState


@dataclasses.dataclass(frozen=True)
class BasicRNN(GatedCell):
    """The basic recurrent cell (Elman, 1990).

    h' = activation(x W_x + h W_h + b);  y = h'

    Parameters are `GatedParams` with one gate, the state is `HiddenState`.

    Attributes:
      activation: a name (``"tanh"``, ``"relu"``, ``"identity"``, ...) or a pointwise function.

    Raises:
      ValueError: for an unknown activation.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.BasicRNN(8, activation="relu")
      >>> params = cell.init(jax.random.key(0), 3)
      >>> state, y = cell(params, cell.initial_state(2), jnp.ones((2, 3)))  # one step
      >>> y.shape
      (2, 8)
    """

    activation: str | Activation = "tanh"

    def __post_init__(self):
        super().__post_init__()
        activation_function(self.activation)

    def gates(self, params: GatedParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        return HiddenState(activation_function(self.activation)((z + r)[..., 0, :]))
