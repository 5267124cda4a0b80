"""Clicks as rows of items in one file, and the items that were clicked next in another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from rnnjax.data.click_windows import Windows
from rnnjax.data.files import readable
from rnnjax.errors import DataError

_CLICKED, _NEXT = "_x.txt", "_y.txt"
_LARGEST = 2**62


def find_click_rows(path: Path) -> tuple[Path, Path] | None:
    """Returns the files NAME_x.txt and NAME_y.txt that a path means, the first, the second or their folder, if any.

    Raises:
      DataError: if one of the two is missing, or the folder has several pairs.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{_CLICKED}"))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{path} holds several files of clicked items, {names}: name one as data.path")
        return _pair(found[0]) if found else None
    named = path.name.endswith((_CLICKED, _NEXT))
    return _pair(path) if named else None


def _pair(file: Path) -> tuple[Path, Path]:
    stem = file.name.removesuffix(_CLICKED).removesuffix(_NEXT)
    pair = file.with_name(stem + _CLICKED), file.with_name(stem + _NEXT)
    for each in pair:
        if not each.is_file():
            raise DataError(f"{each} is missing beside {file}: put it there")
    return pair


def read_click_rows(clicked: Path, following: Path) -> Windows:
    """Returns the windows of two files with as many rows, in their order.

    A row of the first holds the items that were clicked, all rows as many; a row of the second the next item, or for
    every clicked item the one after it, of which the last is taken. Items are whole numbers, parted by commas, spaces
    or tabs. A row that goes on where the row before it ended is of the same session.

    Raises:
      DataError: for a row that does not fit, with file and row.
    """
    before, after = _read_rows(clicked), _read_rows(following)
    if len(before) != len(after):
        raise DataError(f"{clicked} has {len(before)} rows, but {following} {len(after)}: give one for each")
    for number, (items, next_items) in enumerate(zip(before, after), 1):
        if len(items) != len(before[0]):
            raise DataError(f"{clicked}, row {number} has {len(items)} items, and row 1 {len(before[0])}: give as many")
        if len(next_items) not in (1, len(items)):
            raise DataError(
                f"{following}, row {number} has {len(next_items)} items for {len(items)} clicked ones: give the next "
                "one, or for each clicked one the one after it"
            )
        if len(next_items) == len(items) > 1 and next_items[:-1] != items[1:]:
            raise DataError(
                f"{following}, row {number} does not hold the items after those of row {number} of {clicked}: all but "
                "its last must be those clicked from the second on"
            )
    windows = np.array([[*items, next_items[-1]] for items, next_items in zip(before, after)], np.int64)
    return Windows(windows, _sessions(windows))


def _sessions(windows: Int[np.ndarray, "N L"]) -> Int[np.ndarray, " N"]:
    """Returns numbers of sessions: one goes on while each window is the one before it, moved by one click.

    A single stream has no sessions to keep together, and is cut by time: every window is numbered by itself.
    """
    goes_on = (windows[1:, :-1] == windows[:-1, 1:]).all(1)
    return np.arange(len(windows)) if goes_on.all() else np.cumsum(np.r_[0, ~goes_on])


def _read_rows(file: Path) -> Sequence[list[int]]:
    try:
        lines = readable(file).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 (at byte {error.start}): convert it") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{file} is empty: give a row of items for each window")
    return [_items(file, row, line) for row, line in enumerate(lines, 1)]


def _items(file: Path, row: int, line: str) -> list[int]:
    words = line.replace(",", " ").split()
    if not words:
        raise DataError(f"{file}, row {row} is empty: write its items, or remove it from both files")
    return [_item(file, row, word) for word in words]


def _item(file: Path, row: int, word: str) -> int:
    try:
        value = float(word)  # as NumPy writes whole numbers, too: 1.2e+01
        if value.is_integer() and abs(value) < _LARGEST:
            return int(word) if word.lstrip("-+").isdecimal() else int(value)
    except ValueError:
        pass
    raise DataError(f"{file}, row {row}: {word[:60]!r} is no item, which is a whole number; correct it")
