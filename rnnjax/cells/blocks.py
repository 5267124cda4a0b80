"""Recurrent weights in blocks, one for each head: units read the hidden state of their own head only.

A weight ``[N, K, G, K]`` stands for ``[N * K, G, N * K]`` with zeros outside of N blocks on the diagonal.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

RecurrentWeight = Float[Array, "O G H"] | Float[Array, "N K G K"]


def in_blocks(w: Shaped[Array, "..."] | Shaped[jax.ShapeDtypeStruct, "..."]) -> bool:
    """Returns whether a recurrent weight is in blocks."""
    return len(w.shape) == 4


def heads_of(w: Shaped[Array, "..."] | Shaped[jax.ShapeDtypeStruct, "..."]) -> int:
    """Returns the number N of heads that a recurrent weight has a block for; 1 if it is not in blocks."""
    return w.shape[0] if in_blocks(w) else 1


def gates_and_units(w: Shaped[Array, "..."] | Shaped[jax.ShapeDtypeStruct, "..."]) -> tuple[int, int]:
    """Returns the number G of gates and the number H of hidden units, of all heads, of a recurrent weight."""
    *_, gates, units = w.shape
    return gates, heads_of(w) * units


def block_product(h: Float[Array, "*B H"], w: Float[Array, "N K G K"], dtype: DTypeLike) -> Float[Array, "*B G H"]:
    """Returns ``h @ w`` with operands in `dtype`, accumulated and returned in the type of `h`.

    The axis of heads is brought to the front by hand, which was measured to be faster than an `einsum` that leaves it
    where it is (docs/decisions.md).
    """
    heads, size, gates, units = w.shape
    hs = jnp.moveaxis(h.reshape(*h.shape[:-1], heads, size), -2, 0).astype(dtype)
    matrices = w.reshape(heads, size, gates * units).astype(dtype)
    dimensions = (((hs.ndim - 1,), (1,)), ((0,), (0,)))
    r = jax.lax.dot_general(hs, matrices, dimensions, preferred_element_type=h.dtype)
    r = jnp.moveaxis(r.reshape(heads, *h.shape[:-1], gates, units), 0, -2)
    return r.reshape(*h.shape[:-1], gates, heads * units)
