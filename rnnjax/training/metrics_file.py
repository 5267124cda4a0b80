"""`metrics.jsonl`: a line for each set of metrics, read with damaged lines named and left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rnnjax.files import is_number, parse_json, set_aside, write_text

_log = logging.getLogger(__name__)


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Adds lines."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes all lines, in place of those that were there."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the lines; a last one that was cut off is left out, and so are damaged ones, which are logged."""
    rows, damaged = _read(path)
    if damaged:
        _log.warning("%s", _about(path, damaged))
    return rows


def mend(path: Path) -> None:
    """Sets a file with damaged lines aside, and writes the others anew."""
    rows, damaged = _read(path)
    if damaged:
        set_aside(path, _about(path, damaged))
        write_rows(path, rows)


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the rows that can be read, and the numbers of the lines that cannot."""
    if path.is_dir():
        return [], [1]
    if not path.exists():
        return [], []
    rows, damaged = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if is_row(row):
            rows.append(row)
        else:
            damaged.append(number)
    return rows, damaged


def is_row(value: Any) -> bool:
    """Says whether a value is a line: step, epoch and split, and metrics that are numbers."""
    if not isinstance(value, dict) or not isinstance(value.get("split"), str):
        return False
    whole = all(type(value.get(name)) is int for name in ("step", "epoch"))
    return whole and all(is_number(value[name]) for name in value.keys() - {"split"})


def _about(path: Path, damaged: list[int]) -> str:
    shown = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
    return f"{path}: damaged lines, {len(damaged)} ({shown}), are left out and cannot be made again"
