"""The table of the fastest methods on known devices, which the library ships."""

from __future__ import annotations

from typing import NamedTuple

from rnnjax.unrolling.recurrence import Method


class Row(NamedTuple):
    """The fastest method on a device, for gated cells of a class and a dtype, up to a width and a batch size.

    Attributes:
      device: the device's name (`rnnjax.machine.device_name`), or the beginning of it.
      cell: name of the cell's class.
      dtype: dtype of the products.
      hidden: largest number of hidden units.
      batch: largest number of sequences in a batch.
      method: the fastest method, forward and backward.
      command: the command that measured it.
      versions: the versions that it was measured with.
      commit: the commit that was measured.
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


# The first row that fits a recurrence is taken. No device is known yet.
ROWS: tuple[Row, ...] = ()
