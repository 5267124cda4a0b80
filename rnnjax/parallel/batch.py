"""A batch split over devices."""

from __future__ import annotations

from typing import Any

import jax
from jax.flatten_util import ravel_pytree

from rnnjax.unrolling.varying import varying_axes

_LARGE_LEAF = 2**13  # entries: to copy more costs more than to bring the devices together once more


def sum_over(axis: str, tree: Any) -> Any:
    """Returns the sums of the leaves over a mapped axis, which XLA makes one collective of.

    Small leaves are joined to one, since XLA's CPU devices meet for every operand. Large ones are not: where it splits
    a long concatenation over threads, XLA's CPU compiler writes a pass over the whole for every operand, with masked
    loads that were measured to cost three times the rest of a training step. One device has nothing to sum.
    """
    if jax.lax.axis_size(axis) == 1 and not varying_axes(tree):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    is_large = [leaf.size >= _LARGE_LEAF for leaf in leaves]
    joined, restore = ravel_pytree([leaf for leaf, large in zip(leaves, is_large) if not large])
    apart = [leaf for leaf, large in zip(leaves, is_large) if large]
    joined, apart = jax.lax.psum((joined, apart), axis)
    small, large_ones = iter(restore(joined)), iter(apart)
    return jax.tree.unflatten(structure, [next(large_ones if large else small) for large in is_large])
