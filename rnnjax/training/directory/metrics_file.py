"""Reads and writes `metrics.jsonl`, which has one line per set of metrics; damaged lines are reported and skipped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rnnjax.files import is_number, parse_json, set_aside, write_text

_log = logging.getLogger(__name__)


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends lines."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces all lines."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the lines without an incomplete last one, and without damaged ones, which are logged."""
    rows, damaged = read_lines(path, is_row)
    if damaged:
        _log.warning("%s", _damage_message(path, damaged))
    return rows


def mend(path: Path) -> None:
    """Sets a file with damaged lines aside, and writes a new one with the other lines."""
    rows, damaged = read_lines(path, is_row)
    if damaged:
        set_aside(path, _damage_message(path, damaged))
        write_rows(path, rows)


def read_lines(path: Path, fits: Callable[[Any], bool]) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the undamaged lines, which `fits` says of a value, and the numbers of the damaged ones."""
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
        if fits(row):
            rows.append(row)
        else:
            damaged.append(number)
    return rows, damaged


def is_row(value: Any) -> bool:
    """Says whether a value is a line of `metrics.jsonl`: step, epoch and split, and metrics that are numbers."""
    if not isinstance(value, dict) or not isinstance(value.get("split"), str):
        return False
    whole = all(type(value.get(name)) is int for name in ("step", "epoch"))
    return whole and all(is_number(value[name]) for name in value.keys() - {"split"})


def _damage_message(path: Path, damaged: list[int]) -> str:
    shown = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
    return f"{path}: damaged lines, {len(damaged)} ({shown}), are left out and cannot be recovered"
