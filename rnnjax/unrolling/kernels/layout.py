"""How a recurrence is laid out over a GPU: who owns which units, and what fits in shared memory."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import GatedCell, compute_dtype
from rnnjax.unrolling.recurrence import Recurrence

SHARED_MEMORY = 227 * 1024  # bytes a block may have on an H100
MULTIPROCESSORS = 132
_ROWS_OF_A_PRODUCT = 64  # what one instruction of a warpgroup takes
_MOST_COLUMNS = 256
_ACCUMULATORS = 64 * 128  # at 64 registers a thread
_TILE = 8 * 128  # entries of a tile, at 8 registers a thread
_RESERVED = 1024  # barriers, and what the compiler takes for reductions


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout: batch tiles of `rows` sequences, hidden units in `blocks` of `groups` (warpgroups) of `units`.

    A group multiplies its part of the weight, ``[matrix_rows, width]``, by an operand ``[width, columns]``, the hidden
    state forward and the gradients of all gates backward (`parts` is 1 and `gates`), whose columns are sequences.
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
        return -(-self.batch // self.rows)

    @property
    def width(self) -> int:
        """Number of hidden units with the padding."""
        return self.blocks * self.groups * self.units

    @property
    def matrix_rows(self) -> int:
        return _up(self.gates * self.units, _ROWS_OF_A_PRODUCT)

    @property
    def columns(self) -> int:
        return self.parts * self.rows

    @property
    def slots(self) -> int:
        """Copies of the operand: with all units in one block, the next is written while the last is still read."""
        return 2 if self.blocks == 1 else 1

    @property
    def matrix_bytes(self) -> int:
        return self.groups * self.matrix_rows * self.width * self.itemsize

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: its part of the weight, the operand, and the product on its way between threads."""
        operand = self.slots * self.columns * self.width * self.itemsize
        product = self.groups * self.columns * self.matrix_rows * 4
        return self.matrix_bytes + operand + product + _RESERVED

    @property
    def fits(self) -> bool:
        return (
            self.shared_bytes <= SHARED_MEMORY
            and self.columns <= _MOST_COLUMNS
            and self.matrix_rows * self.columns <= _ACCUMULATORS
            and self.units * self.rows <= _TILE
            and (self.blocks == 1 or self.blocks * self.tiles <= MULTIPROCESSORS)
        )


def layout(gates: int, parts: int, itemsize: int, batch: int, hidden: int, *, split: bool = True) -> Layout | None:
    """Returns the layout for a recurrence, None where none fits.

    All units in one block where that is possible, since then no block waits for another; else over as many blocks as
    there are multiprocessors, since every step reads a block's part of the weight from its shared memory.

    Args:
      gates: number G of gates.
      parts: operands a step, 1 forward and G backward.
      itemsize: bytes of an entry of the weight.
      batch: number of sequences.
      hidden: number of hidden units.
      split: whether hidden units may be split over blocks.
    """
    shape = (gates, parts, itemsize, batch, hidden)
    rows = [8 * n for n in range(1, 33)]
    whole = [Layout(*shape, n, _up(-(-hidden // groups), 16), groups, 1) for n in rows for groups in (4, 3, 2, 1)]
    whole = [p for p in whole if p.fits]
    if whole:  # as few waves of blocks as can be, each with as few sequences as can be
        return min(whole, key=lambda p: (-(-p.tiles // MULTIPROCESSORS), p.rows, p.groups * p.units, -p.groups))
    if not split:
        return None
    spread = [
        Layout(*shape, n, units, groups, _up(-(-hidden // (units * groups)), 64 // math.gcd(units, 64)))
        for n in rows
        for units in (16, 32, 48, 64)
        for groups in (1, 2, 4)
    ]
    spread = [p for p in spread if p.blocks > 1 and p.fits]
    return min(spread, key=lambda p: (p.matrix_bytes, p.rows, p.blocks), default=None)


def most_units(gates: int, parts: int, itemsize: int, batch: int, *, split: bool = True) -> int:
    """Returns the largest multiple of 16 hidden units that a layout is there for; 0 for none."""
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
    weight, h = jax.eval_shape(cell.recurrent_weight, recurrence.params), recurrence.state.h
    _, gates, hidden = weight.shape
    return Sizes(gates, hidden, h.size // h.shape[-1], jnp.dtype(compute_dtype(recurrence.steps.z)))


def layouts_of(cell: GatedCell, recurrence: Recurrence, *, split: bool) -> tuple[Layout | None, Layout | None]:
    """Returns the layouts of the kernels forward and backward."""
    gates, hidden, batch, dtype = sizes_of(cell, recurrence)
    ahead, back = (layout(gates, parts, dtype.itemsize, batch, hidden, split=split) for parts in (1, gates))
    return ahead, back


def one_unit(leaf: Any, size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of what one of `size` hidden units has of an array; what has no such axis it has whole."""
    shape = (*leaf.shape[:-1], 1) if leaf.shape[-1:] == (size,) else leaf.shape
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _up(n: int, to: int) -> int:
    return -(-n // to) * to
