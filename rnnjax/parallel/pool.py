"""One list of arrays that has room for any of several trees."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class Pool:
    """Places for the leaves of several trees, of which one at a time is kept.

    Leaves of different trees share a place where they agree in shape and type. So devices, or branches of a program,
    that hold different things hold arrays of the same types.

    Attributes:
      shapes: shape and type of every place.
      layouts: for each tree its structure and the places of its leaves.
    """

    shapes: tuple[jax.ShapeDtypeStruct, ...]
    layouts: tuple[tuple[Any, tuple[int, ...]], ...]

    @classmethod
    def of(cls, trees: Sequence[Any]) -> Pool:
        """Returns a pool for trees like these; leaves have at least a shape and a type."""
        places: dict[tuple, int] = {}
        layouts = []
        for tree in trees:
            leaves, structure = jax.tree.flatten(tree)
            seen: collections.Counter = collections.Counter()
            taken = []
            for leaf in leaves:
                kind = (tuple(leaf.shape), jnp.dtype(leaf.dtype))
                taken.append(places.setdefault((*kind, seen[kind]), len(places)))
                seen[kind] += 1
            layouts.append((structure, tuple(taken)))
        return cls(tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in places), tuple(layouts))

    def put(self, which: int, tree: Any) -> list[Array]:
        """Returns a tree's leaves in their places; zeros are in the others."""
        arrays = [jnp.zeros(like.shape, like.dtype) for like in self.shapes]
        for place, leaf in zip(self.layouts[which][1], jax.tree.leaves(tree)):
            arrays[place] = leaf
        return arrays

    def take(self, which: int, arrays: Sequence[Array]) -> Any:
        """Returns the tree that was put there."""
        structure, places = self.layouts[which]
        return jax.tree.unflatten(structure, [arrays[place] for place in places])
