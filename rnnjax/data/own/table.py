"""Tables in csv files: named columns of cells, and the numbers and times that are written in them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rnnjax.data.files import readable
from rnnjax.errors import DataError, did_you_mean

MISSING = ("", "nan", "na", "n/a", "null", "none")  # cells in which nothing is written, in any case
LARGEST = 1e30  # of numbers: their squares are computed, too
_DELIMITERS = ",;\t"
_NEVER_ENDING = 100_000_000  # characters of a line, more than any table's


class Table(NamedTuple):
    """A table.

    Attributes:
      file: where it was read.
      columns: the cells of every column, by its name, without spaces around them.
      rows: the number of each row as a spreadsheet counts, with the header as row 1.
    """

    file: Path
    columns: dict[str, list[str]]
    rows: list[int]

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column.

        Raises:
          DataError: if there is none of that name.
        """
        if name not in self.columns:
            names = ", ".join(self.columns)
            raise DataError(
                f"{self.file} has no column {name!r}, but {names}{did_you_mean(name, self.columns)}; "
                "name another in the config, or in the first row of the file"
            )
        return self.columns[name]

    def wrong(self, index: int, name: str, what: str) -> DataError:
        """Returns the error about a cell: file, row, column, the value, and what is wrong with it."""
        return DataError(f"{self.place(index, name)}: {_short(self.columns[name][index])} {what}")

    def place(self, index: int, name: str) -> str:
        """Returns where a cell is, as its reader counts."""
        return f"{self.file}, row {self.rows[index]}, column {name!r}"


def read_table(file: Path) -> Table:
    """Returns the table in a csv file in UTF-8, whose first row names the columns.

    Cells are separated by commas, semicolons or tabs, whichever the first row has most of. Empty lines are passed over,
    but in a table of one column they are missing values, as rows of empty cells are; at the end both are left out.

    Raises:
      DataError: if it cannot be read, has no names, no rows, or a row of another number of cells.
    """
    records = _records(file)
    header_row, names = next(((row, names) for row, names in records if any(names)), (0, []))
    if not names:
        raise DataError(f"{file} is empty: give a csv file whose first row names the columns")
    _check_names(file, header_row, names)
    cells: list[list[str]] = [[] for _ in names]
    rows = []
    for row, record in _without_empty_end(records):
        record = record or [""]
        if len(names) > 1 and record == [""]:
            continue
        if len(record) != len(names):
            raise DataError(
                f"{file}, row {row} has {len(record)} cells where the first row names {len(names)} columns "
                f"({', '.join(names)}): give every row as many, with quotes around a cell that has a separator in it"
            )
        rows.append(row)
        for column, cell in zip(cells, record):
            column.append(cell.strip())
    if not rows:
        raise DataError(f"{file} holds names of columns and no rows: give one with data")
    return Table(file, dict(zip(names, cells)), rows)


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows with their numbers from 1 on; an empty line is a row without cells."""
    row = 0
    csv.field_size_limit(_NEVER_ENDING)
    try:
        # "sig": without the mark that some programs begin a file with, which would be part of the first name.
        with readable(file).open(encoding="utf-8-sig", newline="") as lines:
            first = next((line for line in lines if line.strip()), "")
            lines.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            for row, record in enumerate(csv.reader(lines, delimiter=delimiter, strict=True), 1):
                yield row, [cell.strip() for cell in record]
    except FileNotFoundError:
        raise DataError(f"{file} does not exist: give the data with --config.data.path") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it readable, or give another") from error
    except UnicodeDecodeError as error:
        raise DataError(f'{file} is not text in UTF-8 (after row {row}): save it as "CSV UTF-8"') from error
    except csv.Error as error:
        raise DataError(f"{file}, row {row + 1} is no row of a csv file ({error}): correct its quotes") from error


def _without_empty_end(records: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Yields rows up to the last in which anything is written."""
    empty: list[tuple[int, list[str]]] = []
    for row, record in records:
        empty.append((row, record))
        if any(record):
            yield from empty
            empty.clear()


def _check_names(file: Path, row: int, names: Sequence[str]) -> None:
    if "" in names:
        raise DataError(f"{file}, row {row} gives column {names.index('') + 1} no name: name it, or remove it")
    strange = next((name for name in names if not name.isprintable()), None)
    if strange is not None:
        raise DataError(f"{file}, row {row} names a column {strange[:60]!r}, which cannot be printed: rename it")
    if all(map(_is_number, names)):
        raise DataError(
            f"{file}, row {row} holds numbers ({_short(', '.join(names))}) where names of columns are expected: "
            "put a row of names above it"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{file}, row {row} names two columns {twice[0]!r}: rename one")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def csv_line(cells: Sequence[str]) -> str:
    """Returns a row of a csv file, with quotes where a cell needs them."""
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    return written.getvalue()


def is_missing(cell: str) -> bool:
    """Says whether nothing is written in a cell: it is empty, or NaN, NA, null or none."""
    return cell.lower() in MISSING


def numbers(table: Table, name: str) -> Float[np.ndarray, " R"]:
    """Returns a column's numbers, NaN where they are missing.

    Raises:
      DataError: for a cell that holds anything else, which it names.
    """
    return np.array([_number(table, name, index, cell) for index, cell in enumerate(table.column(name))], np.float64)


def _number(table: Table, name: str, index: int, cell: str) -> float:
    if is_missing(cell):
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise table.wrong(index, name, f"is no number; {_remedy(cell, name)}") from None
    if not abs(value) <= LARGEST:
        raise table.wrong(index, name, "is too large; correct it, or leave the cell empty if it is missing")
    return value


def _remedy(cell: str, name: str) -> str:
    """Returns what to do about a cell that is no number."""
    if re.fullmatch(r"[-+]?[\d.]*,\d+", cell):
        return "write the decimal point as ."
    if _is_date(cell):
        return f"if the column holds the times, give --config.data.time={name!r}"
    if re.fullmatch(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b.*", cell):
        return f"if the column holds the times, write them as 2024-01-31 and give --config.data.time={name!r}"
    return "correct it, leave the cell empty if it is missing, or choose columns with --config.data.features"


def _is_date(cell: str) -> bool:
    try:
        _seconds(cell)
    except ValueError:
        return False
    return True


def times(table: Table, name: str) -> Float[np.ndarray, " R"]:
    """Returns a column's times: numbers as they are, or dates as seconds since 1970, in UTC unless they say otherwise.

    Raises:
      DataError: for a cell that is neither, or numbers and dates in one column.
    """
    cells = table.column(name)
    parse: Callable[[str], float] = float if _is_number(cells[0]) else _seconds
    kind = "a number, as in the rows before it" if parse is float else "a date such as 2024-01-31 or 2024-01-31T12:00"
    found = []
    for index, cell in enumerate(cells):
        try:
            found.append(parse(cell))
        except ValueError:
            raise table.wrong(index, name, f"is not {kind}; correct it, or remove the row") from None
        if not abs(found[-1]) <= LARGEST:
            raise table.wrong(index, name, "is no time; correct it, or remove the row")
    return np.array(found, np.float64)


def _seconds(cell: str) -> float:
    """Returns a date and time in ISO 8601, or a month such as 2024-01, as seconds since 1970."""
    time = datetime.fromisoformat(f"{cell}-01" if re.fullmatch(r"\d{4}-\d\d", cell) else cell)
    # Otherwise Python would take the machine's own time zone.
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
