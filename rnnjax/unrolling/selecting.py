"""One value or another for each entry of the batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def select(where: Bool[Array, " *B"], yes: Any, no: Any) -> Any:
    """Returns the leaves of `yes` for the entries of the batch where it holds, of `no` elsewhere."""

    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(where.reshape(where.shape + (1,) * (a.ndim - where.ndim)), a, b)

    return jax.tree.map(leaf, yes, no)


def zeros_where(where: Bool[Array, " *B"], tree: Any) -> Any:
    """Returns the tree with zeros for the entries of the batch where it holds, in arrays of floating-point numbers."""

    def leaf(a: Array) -> Array:
        return select(where, jnp.zeros_like(a), a) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    return jax.tree.map(leaf, tree)


def all_finite(tree: Any, batch_axes: int) -> Bool[Array, " *B"]:
    """Returns for each entry of the batch whether all of its numbers are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    each = [jnp.isfinite(leaf).all(tuple(range(batch_axes, leaf.ndim))) for leaf in leaves]
    return jnp.stack(each).all(0) if each else jnp.asarray(True)
