"""Reporting: what the figures were taken on, an aligned table, JSON."""

from __future__ import annotations

import argparse
import itertools
import json
import operator
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnnjax.machine import device_name, git_commit, versions


class Column(NamedTuple):
    """A column of a table; text is put left, figures right.

    Attributes:
      title: what stands above it.
      of: the field of a row that it shows, such as ``"case.T"``, or a function of the row; the one named as the title.
      unit: "s" or "B" for seconds or bytes with a prefix, a format such as ``".2f"``, or nothing.
      width: how wide it is at least.
      left: whether it is text.
    """

    title: str
    of: str | Callable[[Any], object] = ""
    unit: str = ""
    width: int = 0
    left: bool = False

    def cell(self, row: Any) -> str:
        """Returns what it shows of a row; nothing of what is not known."""
        value: Any = self.of(row) if callable(self.of) else operator.attrgetter(self.of or self.title)(row)
        if value is None or value != value:
            return ""
        return si(value, self.unit) if self.unit in ("s", "B") else format(value, self.unit)


def cells(columns: Sequence[Column], row: Any) -> list[str]:
    """Returns what a table shows of a row: where the row has a `reason` why nothing was measured, that for figures."""
    reason = getattr(row, "reason", None)
    if reason is None:
        return [column.cell(row) for column in columns]
    names = itertools.takewhile(lambda column: not column.unit, columns)
    return [*(column.cell(row) for column in names), reason]


def show(
    options: argparse.Namespace,
    columns: Sequence[Column],
    rows: Iterable[Any],
    *,
    on: dict[str, Any] | None = None,
    about: str = "",
    last: Callable[[list[Any]], str] | None = None,
    **content: Any,
) -> list[Any]:
    """Prints a line for each row as it is measured, and keeps all in a file, so that a run that is stopped leaves it.

    Args:
      options: the command's; `json` is the file, if there is to be one, and has the others as "settings".
      columns: what is printed of a row; the file has it as "table".
      rows: the rows as they come; a sentence among them is printed, and is none.
      on: what they are taken on, if more is known than `machine()` says.
      about: a line or more below that.
      last: what is printed below the rows that there are, also if it is stopped.
      content: what is written besides; a function of the rows so far is called.

    Returns:
      the rows.
    """
    on, found, (titles,) = on or machine(), [], table_lines(columns, [])
    table: dict[str, list[Any]] = {"titles": [column.title for column in columns], "rows": []}
    print("\n".join([header(on), *([about] if about else []), "", titles]), flush=True)
    try:
        for row in rows:
            if isinstance(row, str):
                print(row, flush=True)
                continue
            found.append(row)
            table["rows"].append(cells(columns, row))
            print(line(columns, table["rows"][-1]), flush=True)
            if options.json:
                more = {name: value(found) if callable(value) else value for name, value in content.items()}
                asked = {name: value for name, value in vars(options).items() if name not in ("json", "plot")}
                whole = {"machine": on, "settings": asked, "rows": found, "table": table}
                write_json(options.json, **whole, **more)
    finally:
        if found and last is not None:
            print(last(found), flush=True)
    return found


def table_lines(columns: Sequence[Column], rows: Iterable[Any]) -> list[str]:
    """Returns all of a table as it is printed."""
    titles = line(columns, [column.title for column in columns])
    return [titles, *(line(columns, cells(columns, row)) for row in rows)]


def as_json(value: Any) -> Any:
    """Returns a value as JSON can hold it: of a row its fields."""
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, dict):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def in_short(error: BaseException) -> str:
    """Returns what an error says, in one line of no more than 160 characters."""
    text = " ".join(str(error).split())
    if not text or not isinstance(error, ValueError):  # those are sentences that say why something cannot be
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 160 else f"{text[:157]}..."


def machine() -> dict[str, Any]:
    """Returns what the figures are taken on; `load` is the machine's when asked, from all that runs on it."""
    return {
        "device": device_name(),
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "cores": available_cores(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "git_commit": git_commit(),
    }


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def header(machine: dict[str, Any]) -> str:
    """Returns `machine()` in two lines."""
    load = "" if machine["load"] is None else f", load {machine['load']}"
    shown = ("rnnjax", "jax", "jaxlib", "numpy", "python")
    known = [f"{name} {machine['versions'][name]}" for name in shown if name in machine["versions"]]
    commit = f" (commit {machine['git_commit']})" if machine["git_commit"] else ""
    return (
        f"{machine['device']} ({machine['platform']} x {machine['devices']}), {machine['cores']} cores{load}, "
        f"{machine['system']}\n{', '.join(known)}{commit}"
    )


def line(columns: Sequence[Column], texts: Sequence[object]) -> str:
    """Returns one line of a table; texts beyond the columns' number are not shown, missing ones stay empty."""
    parts = []
    for column, text in zip(columns, texts):
        width = max(column.width, len(column.title))
        parts.append(str(text).ljust(width) if column.left else str(text).rjust(width))
    return "  ".join(parts).rstrip()


def si(value: float | None, unit: str) -> str:
    """Returns a value with three figures and a prefix, such as ``1.23 ms`` or ``45.0 MB``; nothing for None."""
    if value is None:
        return ""
    scales = {"s": ((1, ""), (1e-3, "m"), (1e-6, "u"))}.get(unit, ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))
    scale, prefix = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    scaled = value / scale
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f} {prefix}{unit}"


def write_json(path: Path, **content: Any) -> None:
    """Writes one object with the given fields."""
    path.write_text(json.dumps(as_json(content), indent=1) + "\n")
