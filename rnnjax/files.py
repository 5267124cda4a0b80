"""Writes small files atomically, and reads them with a warning if they are damaged."""

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
    """Writes a file atomically; a directory in its place, or in that of its temporary file, is set aside."""
    temporary = part_of(path)
    for file_path in (temporary, path):
        if file_path.is_dir():
            set_aside(file_path, "a directory where a file belongs")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def part_of(path: Path) -> Path:
    """Returns the path of a file's temporary version, which a process that is killed may leave behind."""
    return path.with_name(path.name + ".part")


def read_json(path: Path, fits: Callable[[Any], bool], then: str) -> Any | None:
    """Returns the value in a JSON file; None if there is no file, or, with a warning, if it is damaged.

    Args:
      path: of the file.
      fits: says whether a value is of the form that the file must have.
      then: what follows if the file is damaged, for the warning.
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
    _log.warning("%s does not have the expected content; %s", path, then)
    return None


def parse_json(content: bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
      ValueError: if it is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def set_aside(path: Path, why: str) -> Path:
    """Renames a damaged file or directory instead of deleting it; logs that, and returns the new path."""
    names = itertools.chain([".set-aside"], (f".set-aside-{number}" for number in itertools.count(2)))
    new_paths = (path.with_name(path.name + ending) for ending in names)
    new_path = next(candidate for candidate in new_paths if not candidate.exists())
    path.rename(new_path)
    _log.warning("%s is set aside as %s (%s)", path, new_path.name, why)
    return new_path


def is_number(value: Any) -> bool:
    """Says whether a value from a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_object(value: Any) -> bool:
    """Says whether a value from a JSON file is an object."""
    return isinstance(value, dict)
