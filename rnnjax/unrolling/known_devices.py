"""What was measured to be fastest on devices that are known, as the library ships it."""

from __future__ import annotations

from typing import NamedTuple

from rnnjax.unrolling.recurrence import Method


class Row(NamedTuple):
    """On a device, for gated cells of a class and a type, up to a width and a batch, this method was the fastest.

    Attributes:
      device: how the device's name begins, or all of it (`rnnjax.machine.device_name`).
      cell: name of the cell's class.
      dtype: type of the products.
      hidden: hidden units, at most.
      batch: sequences in a batch, at most.
      method: the fastest, forward and backward.
      command, versions, commit: what measured it, with which versions, at which commit.
    """

    device: str
    cell: str
    dtype: str
    hidden: int
    batch: int
    method: Method
    command: str
    versions: str
    commit: str


# Rows are read in order: the first that a recurrence fits into is taken. No device is known yet.
ROWS: tuple[Row, ...] = ()
