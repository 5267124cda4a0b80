"""Pytrees of different structures stored in one list of buffers, so that they all have the same type."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Shaped


@dataclasses.dataclass(frozen=True)
class PackedBuffers:
    """A list of buffers that can store any one of several pytrees.

    Leaves of different trees share a buffer if their shapes and dtypes agree. A program whose branches (or devices)
    work on different trees can then pass arrays of the same types in all of them.

    Attributes:
      shapes: shape and dtype of every buffer.
      layouts: for each tree, its structure and the buffer that each of its leaves is stored in.
    """

    shapes: tuple[jax.ShapeDtypeStruct, ...]
    layouts: tuple[tuple[Any, tuple[int, ...]], ...]

    @classmethod
    def for_trees(cls, trees: Sequence[Any]) -> PackedBuffers:
        """Returns buffers for trees like these, whose leaves need only a shape and a dtype."""
        buffers: dict[tuple, int] = {}
        layouts = tuple(_layout(tree, buffers) for tree in trees)
        return cls(tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in buffers), layouts)

    def pack(self, index: int, tree: PyTree[Shaped[Array, "..."]]) -> list[Shaped[Array, "..."]]:
        """Returns the buffers with tree number `index` stored in them; those it does not use are zero."""
        arrays = [jnp.zeros(like.shape, like.dtype) for like in self.shapes]
        _, buffers = self.layouts[index]
        for buffer, leaf in zip(buffers, jax.tree.leaves(tree)):
            arrays[buffer] = leaf
        return arrays

    def unpack(self, index: int, arrays: Sequence[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
        """Returns tree number `index`, which `pack` stored in these buffers."""
        structure, buffers = self.layouts[index]
        return jax.tree.unflatten(structure, [arrays[buffer] for buffer in buffers])


def _layout(tree: Any, buffers: dict[tuple, int]) -> tuple[Any, tuple[int, ...]]:
    """Returns a tree's layout, adding the buffers that it needs and that are not there yet."""
    leaves, structure = jax.tree.flatten(tree)
    used: collections.Counter = collections.Counter()
    indices = []
    for leaf in leaves:
        # Leaves of one tree never share a buffer.
        kind = (tuple(leaf.shape), jnp.dtype(leaf.dtype))
        # The second leaf of a kind needs a second buffer of that kind, which the first tree with two such leaves adds.
        indices.append(buffers.setdefault((*kind, used[kind]), len(buffers)))
        used[kind] += 1
    return structure, tuple(indices)
