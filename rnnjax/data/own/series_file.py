"""A series of numbers in a csv file, with a column for each variable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rnnjax.data.dataset import content_checksum
from rnnjax.data.own.columns import found_time
from rnnjax.data.own.table import numbers, read_table, times
from rnnjax.errors import DataError

_log = logging.getLogger(__name__)

_WIDE_GAP = 1.9  # times the usual distance of rows in time: a row seems to be left out


class Series(NamedTuple):
    """A series: `values [T, C]` in the order of time, NaN where they are missing, and the names of its columns."""

    file: Path
    names: tuple[str, ...]
    values: Float[np.ndarray, "T C"]

    def checksum(self) -> str:
        """Returns a digest of the values."""
        return content_checksum({"all": {"values": self.values}})


def read_series(file: Path, time: str | None, features: Sequence[str]) -> Series:
    """Returns the series in a csv file, in the order of its times.

    Raises:
      DataError: for a cell that is no number, or two rows of the same time.
    """
    table = read_table(file)
    time = found_time(table, time)
    names = tuple(features) or tuple(name for name in table.columns if name != time)
    if not names or time in names:
        raise DataError(f"{file} has no column beside its times {time!r}: name columns with --config.data.features")
    values = np.stack([numbers(table, name) for name in names], axis=1)
    if time is None:
        return Series(file, names, values)
    moments = times(table, time)
    order = np.argsort(moments, kind="stable")
    distances = np.diff(moments[order])
    same = np.flatnonzero(distances == 0)
    if len(same):
        first, second = order[same[0]], order[same[0] + 1]
        raise table.wrong(int(second), time, f"is the time of row {table.rows[first]}, too; remove one of them")
    if len(distances) and distances.max() > _WIDE_GAP * np.median(distances):
        at = table.rows[order[int(distances.argmax()) + 1]]
        _log.warning(
            "%s: the distance in time before row %d is %.3g times the usual one; rows are read as equally spaced, so "
            "add rows with empty cells where some are missing",
            file,
            at,
            distances.max() / np.median(distances),
        )
    return Series(file, names, values[order])
