"""The table of the fastest methods on known devices: its rows, and those of a file of the user's own."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from rnnjax.files import read_json
from rnnjax.unrolling.candidates import method_as_json, method_from_json
from rnnjax.unrolling.recurrence import Method

OWN = "RNNJAX_KNOWN_DEVICES"  # names a JSON file of rows that come before those of the library
SHIPPED = Path(__file__).with_name("device_table.json")  # by ``python -m benchmarks.accelerator --collect DIR``


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


def known_rows() -> tuple[Row, ...]:
    """Returns all rows in the order in which they are read: the first that a recurrence fits into is taken."""
    own = os.environ.get(OWN)
    return (*(rows_in(Path(own)) if own else ()), *rows_in(SHIPPED))


@functools.cache
def rows_in(path: Path) -> tuple[Row, ...]:
    """Returns the rows of a JSON file; none, with a warning, where it is damaged."""
    return tuple(map(row_from_json, read_json(path, _fit, "none of its devices is known") or []))


def row_as_json(row: Row) -> dict[str, Any]:
    """Returns a row as JSON can hold it."""
    return row._asdict() | {"method": method_as_json(row.method)}


def row_from_json(value: dict[str, Any]) -> Row:
    """Returns the row that `row_as_json` wrote down."""
    method = method_from_json(value["method"])
    assert method is not None
    return Row(**{**value, "method": method})


def _fit(values: Any) -> bool:
    fields = set(Row._fields)
    fits = isinstance(values, list) and all(isinstance(value, dict) and set(value) == fields for value in values)
    return fits and all(method_from_json(value["method"]) is not None for value in values)
