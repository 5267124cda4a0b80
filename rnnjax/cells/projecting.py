"""The input projection of cells, one product for all steps, and the types in which cells compute."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rnnjax.backend import sequences_as_matrices


def keep_dtypes(fields: Any, *names: str) -> None:
    """Converts the types among a frozen dataclass's fields to one form, raising for what is not floating point.

    Equal cells are then equal however a type was named. The form is the scalar type, since NumPy's dtypes compare
    float64 as equal to None.
    """
    for name in names:
        dtype = getattr(fields, name)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name} must be a floating-point type, got {jnp.dtype(dtype)}")
        object.__setattr__(fields, name, None if dtype is None else jnp.dtype(dtype).type)


def project(w_x: Float[Array, "I G H"], xs: Float[Array, "*N I"], dtype: DTypeLike | None) -> Float[Array, "*N G H"]:
    """Returns ``xs @ w_x``, the projected inputs of all steps, as one product in a type; None takes that of the inputs.

    Raises:
      ValueError: if the inputs have another number of features than the parameters.
    """
    if xs.shape[-1] != w_x.shape[0]:
        raise ValueError(f"xs has {xs.shape[-1]} features, but the cell was initialised for {w_x.shape[0]}")
    dtype = dtype or xs.dtype
    zs = product(xs.astype(dtype), matrix(w_x).astype(dtype))
    return zs.reshape(*xs.shape[:-1], *w_x.shape[1:])


@jax.custom_jvp
def product(xs: Float[Array, "*N I"], w: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    """Returns ``xs @ w``, with a derivative of its own."""
    return jnp.tensordot(xs, w, 1)


@product.defjvp
def _derivative_of_product(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The derivative of a product, written so that the gradient of `w` is a product of two matrices."""
    (xs, w), (d_xs, d_w) = primals, tangents
    ys = product(xs, w)
    return ys, product(d_xs, w) + jnp.tensordot(rows(xs), d_w, 1).reshape(ys.shape)


def matrix(w: Float[Array, "K ..."]) -> Float[Array, "K N"]:
    """Returns a weight as a matrix with one axis of outputs, whose gradient needs no transposition."""
    return w.reshape(w.shape[0], -1)


def rows(xs: Float[Array, "... K"]) -> Array:
    """Returns a sequence as a matrix, if the backend then computes the gradient of a weight faster."""
    return xs.reshape(-1, xs.shape[-1]) if sequences_as_matrices() else xs
