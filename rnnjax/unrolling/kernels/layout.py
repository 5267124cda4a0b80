"""How a recurrence is laid out over a GPU: which block computes which units, and what fits in shared memory."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from rnnjax.cells.cell import compute_dtype
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.unrolling.recurrence import Recurrence

SHARED_MEMORY = 227 * 1024  # bytes a block may have on an H100
MULTIPROCESSORS = 132
_ROWS_OF_A_PRODUCT = 64  # the M of one wgmma instruction
_MOST_COLUMNS = 256  # the largest N of one wgmma instruction
_ACCUMULATORS = 64 * 128  # float32 sums of a warpgroup: 64 registers for each of its 128 threads
_TILE = 8 * 128  # entries of a tile: 8 registers for each of a warpgroup's 128 threads
_RESERVED = 1024  # bytes for barriers, and for the compiler's scratch space in reductions


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kernel divides its work: the batch into tiles, the hidden units over blocks and their warpgroups.

    A warpgroup multiplies its part of the weight, ``[matrix_rows, width]``, by an operand ``[width, columns]``, whose
    columns are sequences. The operand is the hidden state in the forward kernel, and the gradients of all gates in the
    backward kernel.

    Attributes:
      gates: number G of gates.
      parts: number of operands a step: 1 forward, G backward.
      itemsize: bytes of an entry of the weight.
      batch: number of sequences, without padding.
      hidden: number of hidden units, without padding.
      rows: number of sequences in a batch tile.
      units: number of hidden units of a warpgroup.
      groups: number of warpgroups in a block.
      blocks: number of blocks that the hidden units are divided over.
    """

    gates: int
    parts: int
    itemsize: int
    batch: int
    hidden: int
    rows: int
    units: int
    groups: int
    blocks: int

    @property
    def tiles(self) -> int:
        """Number of batch tiles."""
        return _divided(self.batch, self.rows)

    @property
    def waits(self) -> bool:
        """Whether blocks wait for each other."""
        return self.blocks > 1

    @property
    def width(self) -> int:
        """Number of hidden units, with padding."""
        return self.blocks * self.groups * self.units

    @property
    def matrix_rows(self) -> int:
        """Rows of a warpgroup's part of the weight, with padding: one for each gate of each unit."""
        return _round_up(self.gates * self.units, _ROWS_OF_A_PRODUCT)

    @property
    def columns(self) -> int:
        """Columns of the operand: one for each part of each sequence."""
        return self.parts * self.rows

    @property
    def slots(self) -> int:
        """Buffers for the operand: two with all units in one block, which writes one while the other is still read."""
        # With several blocks, the operand is fetched when all have counted, and so are done with the one before.
        return 2 if self.blocks == 1 else 1

    @property
    def matrix_bytes(self) -> int:
        """Shared memory for a block's part of the weight."""
        return self.groups * self.matrix_rows * self.width * self.itemsize

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: its part of the weight, the operand, and the product as threads exchange it."""
        operand = self.slots * self.columns * self.width * self.itemsize
        product = self.groups * self.columns * self.matrix_rows * 4  # accumulated in float32
        return self.matrix_bytes + operand + product + _RESERVED

    @property
    def fits(self) -> bool:
        """Whether memory and registers suffice, and blocks that wait for each other can all run at once."""
        in_memory = self.shared_bytes <= SHARED_MEMORY
        in_one_instruction = self.columns <= _MOST_COLUMNS
        in_registers = self.matrix_rows * self.columns <= _ACCUMULATORS and self.units * self.rows <= _TILE
        at_once = not self.waits or self.blocks * self.tiles <= MULTIPROCESSORS
        return in_memory and in_one_instruction and in_registers and at_once


def layout(gates: int, parts: int, itemsize: int, batch: int, hidden: int, *, split: bool = True) -> Layout | None:
    """Returns the layout for a recurrence, or None if none fits.

    All units go in one block where possible, since no block then waits for another. Otherwise they are divided over as
    many blocks as there are multiprocessors, since a block reads its whole part of the weight at every step.

    Args:
      gates: number G of gates.
      parts: number of operands a step: 1 forward, G backward.
      itemsize: bytes of an entry of the weight.
      batch: number of sequences.
      hidden: number of hidden units.
      split: whether hidden units may be divided over several blocks.
    """
    sizes = (gates, parts, itemsize, batch, hidden)
    one_block = _layouts_of_one_block(*sizes)
    if one_block:
        return min(one_block, key=_by_waves)
    if not split:
        return None
    return min(_layouts_of_several_blocks(*sizes), key=lambda p: (p.matrix_bytes, p.rows, p.blocks), default=None)


_BATCH_TILES = tuple(8 * n for n in range(1, 33))  # sequences are the N of a wgmma instruction, a multiple of 8


def _layouts_of_one_block(gates: int, parts: int, itemsize: int, batch: int, hidden: int) -> list[Layout]:
    """Returns the layouts that fit with all hidden units in one block."""
    layouts = [
        Layout(gates, parts, itemsize, batch, hidden, rows, _round_up(_divided(hidden, groups), 16), groups, 1)
        for rows in _BATCH_TILES
        for groups in (4, 3, 2, 1)
    ]
    return [layout for layout in layouts if layout.fits]


def _by_waves(layout: Layout) -> tuple[int, ...]:
    """Ranks layouts of one block: the fewest waves of blocks first, then the fewest sequences a block."""
    waves = _divided(layout.tiles, MULTIPROCESSORS)
    # Then the least padding of units, then the most warpgroups.
    return waves, layout.rows, layout.groups * layout.units, -layout.groups


def _layouts_of_several_blocks(gates: int, parts: int, itemsize: int, batch: int, hidden: int) -> list[Layout]:
    """Returns the layouts that fit with the hidden units divided over blocks, their width a multiple of 64."""

    def blocks(units: int, groups: int) -> int:
        return _round_up(_divided(hidden, units * groups), 64 // math.gcd(units, 64))

    layouts = [
        Layout(gates, parts, itemsize, batch, hidden, rows, units, groups, blocks(units, groups))
        for rows in _BATCH_TILES
        for units in (16, 32, 48, 64)  # 16 units of 16 bits are as wide as the swizzle
        for groups in (1, 2, 4)
    ]
    return [layout for layout in layouts if layout.blocks > 1 and layout.fits]


def most_units(gates: int, parts: int, itemsize: int, batch: int, *, split: bool = True) -> int:
    """Returns the largest multiple of 16 hidden units for which a layout fits, or 0 if none does.

    Args:
      gates: number G of gates.
      parts: number of operands a step: 1 forward, G backward.
      itemsize: bytes of an entry of the weight.
      batch: number of sequences.
      split: whether hidden units may be divided over several blocks.
    """
    sizes = range(2048, 0, -16)
    return next((size for size in sizes if layout(gates, parts, itemsize, batch, size, split=split)), 0)


class Sizes(NamedTuple):
    """Numbers of gates, hidden units and sequences of a recurrence, and the type of its products."""

    gates: int
    hidden: int
    batch: int
    dtype: jnp.dtype


def sizes_of(cell: GatedCell, recurrence: Recurrence) -> Sizes:
    """Returns the sizes of a gated cell's recurrence."""
    # By shape, since a cell may compute its recurrent weight.
    weight, h = jax.eval_shape(cell.recurrent_weight, recurrence.params), recurrence.state.h
    _, gates, hidden = weight.shape
    return Sizes(gates, hidden, h.size // h.shape[-1], jnp.dtype(compute_dtype(recurrence.steps.z)))


def layouts_of(cell: GatedCell, recurrence: Recurrence, *, split: bool) -> tuple[Layout | None, Layout | None]:
    """Returns the layouts of the forward and the backward kernel, each None if none fits."""
    gates, hidden, batch, dtype = sizes_of(cell, recurrence)
    forward = layout(gates, 1, dtype.itemsize, batch, hidden, split=split)
    backward = layout(gates, gates, dtype.itemsize, batch, hidden, split=split)
    return forward, backward


def one_unit(
    leaf: Shaped[Array, "..."] | Shaped[jax.ShapeDtypeStruct, "..."], size: int
) -> Shaped[jax.ShapeDtypeStruct, "..."]:
    """Returns the shape of one hidden unit's share of an array.

    Args:
      leaf: an array, or its shape and type. If its last axis is that of the hidden units, a unit's share has size 1
        there; otherwise every unit has the whole array.
      size: number H of hidden units.
    """
    shape = (*leaf.shape[:-1], 1) if leaf.shape[-1:] == (size,) else leaf.shape
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _divided(n: int, by: int) -> int:
    """Returns a quotient rounded up."""
    return -(-n // by)


def _round_up(n: int, to: int) -> int:
    """Returns the smallest multiple of `to` that is at least `n`."""
    return _divided(n, to) * to
