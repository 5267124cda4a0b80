"""Initialisers by name, applied gate by gate."""

from __future__ import annotations

from typing import Callable

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

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
    """Returns the initialiser ``(key, shape, dtype) -> array`` that a name from `jax.nn.initializers` stands for."""
    if callable(choice):
        return choice
    if choice in _PLAIN:
        return getattr(jax.nn.initializers, choice)
    if choice in _FACTORIES:
        return getattr(jax.nn.initializers, choice)()
    raise ValueError(
        f"unknown initialiser {choice!r}; choose from {', '.join(_PLAIN + _FACTORIES)}, or give a function"
    )


def gate_kernels(
    choice: str | Initializer, key: PRNGKeyArray, rows: int, gates: int, columns: int, dtype: DTypeLike
) -> Float[Array, "rows gates columns"]:
    """Returns one ``[rows, columns]`` kernel a gate, drawn one by one so that fans and orthogonality are per gate."""
    draw = initializer(choice)
    kernels = [draw(k, (rows, columns), dtype) for k in jax.random.split(key, gates)]
    return jax.numpy.stack(kernels, axis=1)
