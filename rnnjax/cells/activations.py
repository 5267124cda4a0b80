"""Pointwise functions by name."""

from __future__ import annotations

from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]

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


def activation_function(choice: str | Activation) -> Activation:
    """Returns the pointwise function of a name such as ``"tanh"``; a function is returned as it is.

    Raises:
      ValueError: for an unknown name.
    """
    if callable(choice):
        return choice
    if choice not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {choice!r}; choose from {', '.join(_ACTIVATIONS)}, or give a function")
    return _ACTIVATIONS[choice]


def complement(gate: Activation, x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Returns ``1 - gate(x)``."""
    # 1 - sigmoid(x) loses all its digits where sigmoid(x) is nearly 1; sigmoid(-x), its equal, loses none.
    return jax.nn.sigmoid(-x) if gate is jax.nn.sigmoid else 1 - gate(x)
