"""The basic recurrent cell."""

from __future__ import annotations

import dataclasses
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import GatedCell, GatedParams, HiddenState

_ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "identity": lambda x: x,
}


def activation_function(choice: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Returns the pointwise function that a name such as ``"tanh"`` stands for; a function stands for itself."""
    if callable(choice):
        return choice
    if choice not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {choice!r}; choose from {', '.join(_ACTIVATIONS)}, or give a function")
    return _ACTIVATIONS[choice]


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

    activation: str | Callable[[Array], Array] = "tanh"

    def __post_init__(self):
        super().__post_init__()
        activation_function(self.activation)

    def gates(self, params: GatedParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        return HiddenState(activation_function(self.activation)((z + r)[..., 0, :]))
