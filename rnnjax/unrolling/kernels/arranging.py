"""The arrays of a recurrence, laid out as the kernels read and write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from rnnjax.unrolling.kernels.layout import Layout


def arranged(
    x: Float[Array, "*N B n H"], layout: Layout, tiles: int | None = None
) -> Float[Array, "*N tiles rows n blocks groups units"]:
    """Returns an array with its batch and its hidden units laid out as the kernels read them.

    The padding repeats the last sequence and the last unit: zeros might lie outside what the gates are defined for.
    """
    *others, size, n, hidden = x.shape
    tiles = layout.tiles if tiles is None else tiles
    missing = [(0, 0)] * len(others) + [(0, layout.rows * tiles - size), (0, 0), (0, layout.width - hidden)]
    x = jnp.pad(x, missing, mode="edge")
    return x.reshape(*others, tiles, layout.rows, n, layout.blocks, layout.groups, layout.units)


def restored(x: Float[Array, "*N tiles rows n blocks groups units"], layout: Layout) -> Float[Array, "*N B n H"]:
    """Returns what the kernels wrote as an array without padding: the inverse of `arranged`."""
    *others, tiles, rows, n, _, _, _ = x.shape
    return x.reshape(*others, tiles * rows, n, layout.width)[..., : layout.batch, :, : layout.hidden]


def restored_single(x: Float[Array, "*N tiles rows 1 blocks groups units"], layout: Layout) -> Float[Array, "*N B H"]:
    """Returns the same for an array with one entry a unit."""
    return restored(x, layout)[..., 0, :]


def arranged_units(leaves: Sequence[Float[Array, "*N B H"] | None] | None, layout: Layout) -> Any:
    """Returns the leaves ``[..., B, H]`` of a state, arranged with one entry a unit."""
    return None if leaves is None else [None if x is None else arranged(x[..., None, :], layout) for x in leaves]


def arranged_params(
    gate_params: list[Float[Array, "_ H"]], layout: Layout
) -> list[Float[Array, "1 rows _ blocks groups units"]]:
    """Returns parameters ``[n, H]``, arranged: one batch tile, in which all sequences have the same."""
    return [arranged(jnp.broadcast_to(x, (layout.rows, *x.shape)), layout, tiles=1) for x in gate_params]


def arranged_mask(mask: Bool[Array, "T B"] | None, layout: Layout) -> Float[Array, "T tiles rows 1 1 1 units"] | None:
    """Returns a mask as tiles of zeros and ones, the same for all warpgroups."""
    if mask is None:
        return None
    padding = layout.tiles * layout.rows - layout.batch
    tiles = jnp.pad(mask.astype(jnp.float32), [(0, 0), (0, padding)], mode="edge")
    tiles = tiles.reshape(-1, layout.tiles, layout.rows, 1, 1, 1, 1)
    return jnp.broadcast_to(tiles, (*tiles.shape[:-1], layout.units))


def arranged_weight(
    weight: Float[Array, "H G H"], layout: Layout, dtype: Any
) -> Float[Array, "blocks groups matrix_rows width"]:
    """Returns a weight, whose first axis is that of the units that it computes, in one part for each warpgroup."""
    padding = layout.width - layout.hidden
    # Units in the padding repeat the last one, for the reason that `arranged` gives.
    weight = jnp.pad(weight.astype(dtype), [(0, padding), (0, 0), (0, 0)], mode="edge")
    # Zeros, so that the operand's entries in the padding add nothing to a product.
    weight = jnp.pad(weight, [(0, 0), (0, 0), (0, padding)])
    # Gate by gate in a warpgroup, [blocks, groups, gates, units, width], so that a gate's tile is a range of rows.
    weight = weight.reshape(layout.blocks, layout.groups, layout.units, layout.gates, layout.width).swapaxes(2, 3)
    weight = weight.reshape(layout.blocks, layout.groups, layout.gates * layout.units, layout.width)
    return jnp.pad(weight, [(0, 0), (0, 0), (0, layout.matrix_rows - weight.shape[2]), (0, 0)])


def empty(
    layout: Layout, n: int, dtype: Any, *time: int
) -> Shaped[jax.ShapeDtypeStruct, "*N tiles rows n blocks groups units"]:
    """Returns the shape and type of an output.

    Args:
      layout: the layout.
      n: number of entries a unit.
      dtype: the type.
      *time: number of steps; none for an output that is not of every step.
    """
    shape = (*time, layout.tiles, layout.rows, n, layout.blocks, layout.groups, layout.units)
    return jax.ShapeDtypeStruct(shape, dtype)


def published(
    layout: Layout, length: int, dtype: Any
) -> Shaped[jax.ShapeDtypeStruct, "T tiles parts rows blocks groups units"]:
    """Returns the shape and type of what the blocks publish, for `length` products."""
    shape = (length, layout.tiles, layout.parts, layout.rows, layout.blocks, layout.groups, layout.units)
    return jax.ShapeDtypeStruct(shape, dtype)
