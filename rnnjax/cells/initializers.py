"""Initialisers by name, applied gate by gate."""

from __future__ import annotations

from typing import Any, Callable

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
# The initialisers of vectors, whose fans in and out are the same: Glorot's bound is then LeCun's.
_BY_FAN_IN = {
    name: name.replace("glorot", "lecun") for name in _FACTORIES if name.startswith(("glorot", "he", "lecun"))
}


def initializer(choice: str | Initializer) -> Initializer:
    """Returns the initialiser ``(key, shape, dtype) -> array`` of a name from `jax.nn.initializers`.

    It draws in float32 or a wider type, since not all initialisers support narrower ones. A function is returned as it
    is.

    Raises:
      ValueError: for an unknown name.
    """
    return choice if callable(choice) else _named(choice)


def vector_initializer(choice: str | Initializer) -> Initializer:
    """Returns the same for vectors ``[H]``, whose fans in and out are both H, as TensorFlow and Keras count them.

    Raises:
      ValueError: for an unknown name, and for "orthogonal", which is defined for matrices only.
    """
    if callable(choice):
        return _drawing_vectors(choice)
    if choice == "orthogonal":
        raise ValueError(
            'initialiser "orthogonal" is for matrices and cannot draw a vector; '
            "choose another for the cell's vectors, such as glorot_uniform, or give a function"
        )
    if choice in _BY_FAN_IN:
        return _named(_BY_FAN_IN[choice], in_axis=0, out_axis=())
    return _named(choice)


def _drawing_vectors(function: Initializer) -> Initializer:
    """Returns the function with a clearer error where it is defined for matrices only, as most of JAX's are."""

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        try:
            return function(key, shape, dtype)
        except ValueError as error:
            raise ValueError(
                f"the initialiser cannot draw one of the cell's vectors, of shape {list(shape)} ({error}); "
                "give a function that can, or a name such as glorot_uniform"
            ) from error

    return draw


def _named(choice: str, **axes: Any) -> Initializer:
    """Returns the initialiser of a name; `axes` says which axes of a weight are inputs and outputs."""
    if choice in _PLAIN:
        initialise = getattr(jax.nn.initializers, choice)
    elif choice in _FACTORIES:
        initialise = getattr(jax.nn.initializers, choice)(**axes)
    else:
        known = ", ".join(_PLAIN + _FACTORIES)
        raise ValueError(f"unknown initialiser {choice!r}; choose from {known}, or give a function")

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return initialise(key, shape, at_least_float32(dtype)).astype(dtype)

    return draw


def gate_kernels(
    choice: str | Initializer, key: PRNGKeyArray, rows: int, gates: int, columns: int, dtype: DTypeLike
) -> Float[Array, "rows gates columns"]:
    """Returns a ``[rows, columns]`` kernel for each gate, drawn one by one so that fans and orthogonality are per gate.

    Args:
      choice: the initialiser, a name or a function.
      key: PRNG key.
      rows: number of inputs.
      gates: number of gates.
      columns: number of outputs of each gate.
      dtype: type of the parameters.
    """
    draw = initializer(choice)
    kernels = [draw(k, (rows, columns), dtype) for k in jax.random.split(key, gates)]
    return jnp.stack(kernels, axis=1)


def gate_vectors(
    choice: str | Initializer, key: PRNGKeyArray, gates: int, size: int, dtype: DTypeLike
) -> Float[Array, "gates size"]:
    """Returns a vector ``[size]`` for each gate, drawn one by one.

    Args:
      choice: the initialiser, a name or a function.
      key: PRNG key.
      gates: number of gates.
      size: number of hidden units.
      dtype: type of the parameters.
    """
    draw = vector_initializer(choice)
    return jnp.stack([draw(k, (size,), dtype) for k in jax.random.split(key, gates)])
