"""Labelled sequences in a csv table in long form: a row a step, with the id of its sequence, features and a label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from rnnjax.data.own.columns import Columns, found_columns, found_inputs
from rnnjax.data.own.sequence_set import NO_LABEL, SequenceSet, padded_sequences
from rnnjax.data.own.table import Table, is_missing, numbers, read_table, times

_log = logging.getLogger(__name__)

Rows = Sequence[Int[np.ndarray, " n"]]  # for each sequence, the indices of its rows, in the order of time


def read_long_form(file: Path, columns: Columns, *, every_step: bool) -> SequenceSet:
    """Returns the sequences of a table, in the order in which their ids first occur.

    A sequence's rows may stand anywhere; they are ordered by time, or stay in the order of the file.

    Args:
      file: the csv file.
      columns: which column is what.
      every_step: whether each step has a label of its own, in place of each sequence.

    Raises:
      DataError: for what is wrong with the table, with file, row and column.
    """
    table = read_table(file)
    columns = found_columns(table, columns)
    order = "in the order of the file" if columns.time is None else f"ordered by {columns.time!r}"
    named = "%s: sequences by %r, %s, labelled by %r, features %s"
    _log.info(named, file, columns.id, order, columns.label, ", ".join(columns.features))
    sequences, groups = _without_labels(table, columns)
    labels = _whole_labels(table, columns.label, every_step=every_step)
    if not every_step:
        return sequences._replace(labels=_one_each(table, columns, groups, labels))
    return sequences._replace(labels=padded_sequences(labels[np.concatenate(groups)], sequences.lengths, NO_LABEL))


def read_inputs(file: Path, columns: Columns, features: Sequence[str]) -> SequenceSet:
    """Returns the sequences of a table without labels, whether it has them or not.

    Args:
      file: the csv file.
      columns: which column is what.
      features: the columns that are read.

    Raises:
      DataError: for what is wrong with the table, with file, row and column.
    """
    table = read_table(file)
    return _without_labels(table, found_inputs(table, columns, features))[0]


def _without_labels(table: Table, columns: Columns) -> tuple[SequenceSet, Rows]:
    """Returns the sequences of a table, and for each the indices of its rows."""
    moments = None if columns.time is None else times(table, columns.time)
    groups = _rows_of_sequences(table, columns, moments)
    if len(groups) == len(table.rows) > 1:
        _log.warning("%s: each sequence has one step; is %r the column of their ids?", table.file, columns.id)
    lengths = np.array([len(group) for group in groups])
    features = np.stack([numbers(table, name) for name in columns.features], axis=1)
    sequences = SequenceSet(
        table.file,
        columns.features,
        list(dict.fromkeys(table.columns[columns.id])),
        padded_sequences(features[np.concatenate(groups)], lengths, np.nan),
        lengths,
        np.full(len(groups), NO_LABEL),
        None if moments is None else np.array([moments[group[-1]] for group in groups]),
    )
    return sequences.checked(), groups


def _rows_of_sequences(table: Table, columns: Columns, moments: np.ndarray | None) -> Rows:
    groups: dict[str, list[int]] = {}
    for index, id in enumerate(table.columns[columns.id]):
        if is_missing(id):
            raise table.wrong(index, columns.id, "is no id of a sequence; write one, or remove the row")
        groups.setdefault(id, []).append(index)
    found = [np.array(group) for group in groups.values()]
    if moments is None:
        return found
    ordered = [group[np.argsort(moments[group], kind="stable")] for group in found]
    for group in ordered:
        same = np.flatnonzero(np.diff(moments[group]) == 0)
        if len(same):
            first, second = (int(row) for row in group[same[0] : same[0] + 2])
            assert columns.time is not None
            raise table.wrong(
                second, columns.time, f"is the time of row {table.rows[first]} of the same sequence; correct one"
            )
    return ordered


def _whole_labels(table: Table, name: str, *, every_step: bool) -> Shaped[np.ndarray, " R"]:
    """Returns the labels as text, numbers among them as whole ones are written: 1 for 1.0."""
    cells = [NO_LABEL if is_missing(cell) else cell for cell in table.column(name)]
    try:
        values = [float(cell) for cell in cells if cell]
    except ValueError:
        return np.array(cells)
    for index, cell in enumerate(cells):
        if cell and not float(cell).is_integer():
            raise table.wrong(index, name, f"is no class: classes are whole numbers or words; {_NO_CLASSES}")
    return np.array([_whole(cell) if cell else NO_LABEL for cell in cells]) if values else np.array(cells)


def _whole(cell: str) -> str:
    """Returns a whole number as it is written without a fraction, in all of its digits."""
    try:
        return str(int(cell))
    except ValueError:
        return str(int(float(cell)))


_NO_CLASSES = "to predict numbers use configs/own.py:forecast, or name another column with --config.data.label"


def _one_each(
    table: Table, columns: Columns, groups: Rows, labels: Shaped[np.ndarray, " R"]
) -> Shaped[np.ndarray, " N"]:
    """Returns the label of each sequence, which rows may leave out but not contradict."""
    found = []
    for group in groups:
        labelled = [int(index) for index in group if labels[index] != NO_LABEL]
        if not labelled:
            raise table.wrong(
                int(group[0]), columns.label, "stands where a label is needed; write one for the sequence"
            )
        for one, other in pairwise(labelled):
            if labels[one] != labels[other]:
                raise table.wrong(
                    other,
                    columns.label,
                    f"is another label than that of row {table.rows[one]} of the same sequence; give a sequence one "
                    "label, or use configs/own.py:tag for one a step",
                )
        found.append(labels[labelled[0]])
    return np.array(found)
