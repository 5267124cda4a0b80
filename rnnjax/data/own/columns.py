"""Which column of a table is what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rnnjax.data.own.table import Table
from rnnjax.errors import DataError

TIME_NAMES = ("time", "timestamp", "date", "datetime", "t", "step")
ID_NAMES = ("id", "sequence", "sequence_id", "sequenceid", "session", "sessionid", "series")
LABEL_NAMES = ("label", "class", "target", "tag")


class Columns(NamedTuple):
    """Names of columns, as a config gives them; an empty one is found.

    Attributes:
      id: that of the sequence which a row belongs to; "" takes one that is called id, sequence, session or series, else
        the first that is not one of times.
      time: by which the rows of a sequence are ordered; "" takes one that is called time, timestamp, date, datetime, t
        or step, None the order of the rows.
      label: of the labels; "" takes one that is called label, class, target or tag, else y where it is no coordinate
        behind x, else the last of the others.
      features: the inputs; none takes all other columns.
    """

    id: str = ""
    time: str | None = ""
    label: str = ""
    features: tuple[str, ...] = ()


def found_columns(table: Table, wanted: Columns) -> Columns:
    """Returns the columns of a table of labelled sequences, all by name.

    Raises:
      DataError: if one that is named is not there, none is left for features, or one would be two things.
    """
    names = list(table.columns)
    id = wanted.id or _found_id(names)
    time = found_time(table, wanted.time, but=(id, *wanted.features))
    left = [name for name in names if name not in (id, time)]
    others = [name for name in left if name not in wanted.features]
    if left and not others and not wanted.label:
        raise DataError(
            f"{table.file} has no column of labels beside id, time and features ({', '.join(names)}): add one, or "
            "leave the data to rnnjax.generate, which needs none"
        )
    others = others or names
    label = wanted.label or _found_label(others)
    features = wanted.features or tuple(name for name in left if name != label)
    found = Columns(id, time, label, features)
    _check(table, found)
    return found


def _found_id(names: Sequence[str]) -> str:
    first = next((name for name in names if name.lower() not in TIME_NAMES), names[0])
    return next((name for name in names if name.lower() in ID_NAMES), first)


def _found_label(names: Sequence[str]) -> str:
    lower = [name.lower() for name in names]
    coordinate = "x" in lower and "y" not in lower[: lower.index("x")]
    wanted = LABEL_NAMES if coordinate else (*LABEL_NAMES, "y")
    return next((names[lower.index(name)] for name in wanted if name in lower), names[-1])


def found_inputs(table: Table, wanted: Columns, features: Sequence[str]) -> Columns:
    """Returns the columns of a table whose labels are not read, all by name; the label is empty.

    Args:
      table: the table.
      wanted: names of columns.
      features: those of the features.

    Raises:
      DataError: if one is not there.
    """
    id = wanted.id or _found_id([name for name in table.columns if name not in features] or list(table.columns))
    found = Columns(id, found_time(table, wanted.time, but=(id, *features)), "", tuple(features))
    for name in (id, *features, *([] if found.time is None else [found.time])):
        table.column(name)
    return found


def found_time(table: Table, wanted: str | None, but: Sequence[str] = ()) -> str | None:
    """Returns the column of times; None if there is none.

    Args:
      table: the table.
      wanted: its name; "" finds it, None says that there is none.
      but: columns that it is not.
    """
    if wanted != "":
        return wanted
    return next((name for name in table.columns if name.lower() in TIME_NAMES and name not in but), None)


def _check(table: Table, found: Columns) -> None:
    names = [found.id, *([] if found.time is None else [found.time]), found.label, *found.features]
    for name in names:
        table.column(name)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not found.features:
        wrong = "has no column of features" if twice is None else f"would use column {twice!r} for two things"
        raise DataError(
            f"{table.file} {wrong} (sequence {found.id!r}, time {found.time!r}, label {found.label!r}, features "
            f"{', '.join(map(repr, found.features)) or 'none'}): name them with --config.data.id, time, label and "
            "features"
        )
