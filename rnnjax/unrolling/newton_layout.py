"""The numbers of a state, packed into one array in blocks that do not read each other."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, State
from rnnjax.cells.traits import keeps_units_apart
from rnnjax.dtypes import at_least_float32, holding_all

Blocks = Literal["diagonal", "block", "dense"]


class Layout(NamedTuple):
    """How a state is packed as ``[D, *batch, N]``, N blocks of D numbers; those of many steps as ``[T, D, *batch, N]``.

    Each of P numbers by itself ("diagonal", D = 1 and N = P), those of each unit together ("block", D leaves of N
    units), or all of them ("dense", D = P and N = 1).

    Attributes:
      blocks: which of these.
      like: a state of one step, as shapes and types.
      batch_axes: how many axes of every leaf are those of the batch.
    """

    blocks: Blocks
    like: State
    batch_axes: int

    @classmethod
    def of(cls, blocks: Blocks, cell: Cell, state: State) -> Layout:
        """Returns the layout of a cell's state, each leaf ``[*batch, ...]``."""
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        # One batch axis, since a cell of one's own may know no other.
        one = jax.eval_shape(lambda: cell.initial_state(1, jnp.float32))
        leaf, with_one_axis = jax.tree.leaves(like)[0], jax.tree.leaves(one)[0]
        return cls(blocks, like, leaf.ndim - with_one_axis.ndim + 1)

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the packed numbers: float32 at least."""
        return at_least_float32(holding_all(*(leaf.dtype for leaf in jax.tree.leaves(self.like))))

    @property
    def batch(self) -> tuple[int, ...]:
        return jax.tree.leaves(self.like)[0].shape[: self.batch_axes]

    @property
    def sizes(self) -> list[int]:
        """How many numbers each leaf has for an entry of the batch."""
        return [math.prod(leaf.shape[self.batch_axes :]) for leaf in jax.tree.leaves(self.like)]

    @property
    def width(self) -> int:
        """Number D of numbers in a block."""
        return {"diagonal": 1, "block": len(self.sizes), "dense": sum(self.sizes)}[self.blocks]

    def pack(self, state: State) -> Float[Array, "..."]:
        """Returns the numbers of a state, or of the states of many steps."""
        leaves = [leaf.astype(self.dtype) for leaf in jax.tree.leaves(state)]
        time = self._time_axes(state)
        flat = [leaf.reshape(*leaf.shape[: time + self.batch_axes], size) for leaf, size in zip(leaves, self.sizes)]
        if self.blocks == "block":
            return jnp.stack(flat, time)
        together = flat[0] if len(flat) == 1 else jnp.concatenate(flat, -1)
        if self.blocks == "diagonal":
            return jnp.expand_dims(together, time)
        return jnp.moveaxis(together, -1, time)[..., None]

    def unpack(self, numbers: Float[Array, "..."]) -> State:
        """Returns the state that was packed, in its types."""
        time = numbers.ndim - self.batch_axes - 2
        leaves, tree = jax.tree.flatten(self.like)
        if self.blocks == "block":
            flat = [jax.lax.index_in_dim(numbers, leaf, time, keepdims=False) for leaf in range(len(leaves))]
        else:
            together = (
                jnp.squeeze(numbers, time) if self.blocks == "diagonal" else jnp.moveaxis(numbers[..., 0], time, -1)
            )
            ends = [sum(self.sizes[: leaf + 1]) for leaf in range(len(leaves))]
            flat = [together[..., end - size : end] for size, end in zip(self.sizes, ends)]
        unpacked = [
            part.reshape(*part.shape[:time], *leaf.shape).astype(leaf.dtype) for part, leaf in zip(flat, leaves)
        ]
        return jax.tree.unflatten(tree, unpacked)

    def sizes_of_leaves(self, numbers: Float[Array, "T D *B N"]) -> Float[Array, "L T *B"]:
        """Returns the size of the largest number in each leaf of each step and sequence."""

        def largest(leaf: Array) -> Array:
            return jnp.abs(leaf).max(tuple(range(1 + self.batch_axes, leaf.ndim)))

        return jnp.stack([largest(leaf).astype(self.dtype) for leaf in jax.tree.leaves(self.unpack(numbers))])

    def _time_axes(self, state: State) -> int:
        return jax.tree.leaves(state)[0].ndim - jax.tree.leaves(self.like)[0].ndim


def exact_blocks(cell: Cell, state: State) -> Blocks:
    """Returns the smallest blocks that do not read each other, as far as the cell's kind tells."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    if not keeps_units_apart(cell) or len(set(shapes)) > 1:
        return "dense"
    return "diagonal" if len(shapes) == 1 else "block"


def are_exact(blocks: Blocks, cell: Cell, state: State) -> bool:
    """Returns whether no block reads another, so that Newton's method is that and not an approximation."""
    order = ("diagonal", "block", "dense")
    return order.index(blocks) >= order.index(exact_blocks(cell, state))
