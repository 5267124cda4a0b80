"""A batch split over devices."""

from __future__ import annotations

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree, Shaped

from rnnjax.unrolling.varying import varying_axes

_LARGE_LEAF = 2**13  # entries; copying more costs more than another synchronisation of the devices


def sum_over(axis: str, tree: PyTree[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
    """Returns the sums of the leaves over a mapped axis, computed by one collective.

    Small leaves are concatenated, because XLA's CPU devices synchronise once per operand. Large leaves are not: XLA's
    CPU compiler splits a long concatenation over threads, and then emits one pass over all of it per operand, with
    masked loads that were measured to cost three times the rest of a training step.

    Args:
      axis: name of the mapped axis; over one device, the tree is returned unchanged.
      tree: a pytree of arrays.
    """
    # Where `jax.shard_map` tracks what varies, only a collective takes the mark off, over one device too.
    if jax.lax.axis_size(axis) == 1 and not varying_axes(tree):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    is_large = [leaf.size >= _LARGE_LEAF for leaf in leaves]
    flat, unflatten = ravel_pytree([leaf for leaf, large in zip(leaves, is_large) if not large])
    large_leaves = [leaf for leaf, large in zip(leaves, is_large) if large]
    # In one `psum`, of which XLA makes one collective.
    flat_sum, large_sums = jax.lax.psum((flat, large_leaves), axis)
    small, large = iter(unflatten(flat_sum)), iter(large_sums)
    return jax.tree.unflatten(structure, [next(large if leaf_is_large else small) for leaf_is_large in is_large])
