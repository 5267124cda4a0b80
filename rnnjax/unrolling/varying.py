"""The mesh axes over which arrays vary inside `jax.shard_map`: a loop's carry must have the same ones throughout."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array


def varying_axes(tree: Any) -> frozenset[str]:
    """Returns the mesh axes over which any leaf varies, as `jax.shard_map` tracks them."""
    return frozenset().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)))


def vary(tree: Any, axes: frozenset[str]) -> Any:
    """Returns the tree with every leaf marked as varying over the axes."""

    def leaf(x: Array) -> Array:
        missing = tuple(sorted(axes - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(leaf, tree)
