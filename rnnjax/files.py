"""Small files that are kept: written whole or not at all, and read with what is damaged named."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnnjax.errors import first_line

_log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all; a directory where it, or what it is made from, belongs is set aside."""
    temporary = part_of(path)
    for each in (temporary, path):
        if each.is_dir():
            set_aside(each, "a directory where a file belongs")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def part_of(path: Path) -> Path:
    """Returns what a file is called until it is whole; a process that is killed may leave it."""
    return path.with_name(path.name + ".part")


def read_json(path: Path, fits: Callable[[Any], bool], then: str) -> Any | None:
    """Returns the value in a JSON file; None where there is no file, or none whose value fits, which is logged.

    Args:
      path: of the file.
      fits: says of a value whether it is one that belongs there.
      then: what is done where the file is damaged, for the log.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); %s", path, first_line(error), then)
        return None
    if fits(value):
        return value
    _log.warning("%s does not hold what belongs there; %s", path, then)
    return None


def parse_json(content: bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
      ValueError: if it is none, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def set_aside(path: Path, why: str) -> Path:
    """Renames what is damaged, so that it is out of the way and yet kept; says so, and returns the new path."""
    names = itertools.chain([".set-aside"], (f".set-aside-{number}" for number in itertools.count(2)))
    kept = next(new for new in (path.with_name(path.name + ending) for ending in names) if not new.exists())
    path.rename(kept)
    _log.warning("%s is set aside as %s (%s)", path, kept.name, why)
    return kept


def is_number(value: Any) -> bool:
    """Says whether a value out of a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_object(value: Any) -> bool:
    """Says whether a value out of a JSON file is an object, with names."""
    return isinstance(value, dict)
