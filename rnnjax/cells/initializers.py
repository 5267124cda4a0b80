"""Initialisers by name, applied gate by gate."""

from __future__ import annotations

from typing import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.dtypes import at_least_float32

Initializer = Callable[..., Array]

_PLAIN = ("zeros", "ones")
_FACTORIES = (
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
    "uniform",
    "normal",
)


def initializer(choice: str | Initializer) -> Initializer:
    """Returns the initialiser ``(key, shape, dtype) -> array`` that a name from `jax.nn.initializers` stands for.

    One given by name draws in float32 or above, because not all can draw in less; a function stands for itself.

    Raises:
      ValueError: for an unknown name.
    """
    if callable(choice):
        return choice
    if choice in _PLAIN:
        chosen = getattr(jax.nn.initializers, choice)
    elif choice in _FACTORIES:
        chosen = getattr(jax.nn.initializers, choice)()
    else:
        known = ", ".join(_PLAIN + _FACTORIES)
        raise ValueError(f"unknown initialiser {choice!r}; choose from {known}, or give a function")

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return chosen(key, shape, at_least_float32(dtype)).astype(dtype)

    return draw


def gate_kernels(
    choice: str | Initializer, key: PRNGKeyArray, rows: int, gates: int, columns: int, dtype: DTypeLike
) -> Float[Array, "rows gates columns"]:
    """Returns one ``[rows, columns]`` kernel a gate, drawn one by one so that fans and orthogonality are per gate."""
    draw = initializer(choice)
    kernels = [draw(k, (rows, columns), dtype) for k in jax.random.split(key, gates)]
    return jnp.stack(kernels, axis=1)
