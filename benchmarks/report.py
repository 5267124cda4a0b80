"""Reporting: what the figures were taken on, an aligned table, JSON, a plot; and the flags that ask for them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax

from rnnjax.machine import device_name, git_commit, versions


class Column(NamedTuple):
    """A column of a table: its title, and its width at least; text is put left, figures right."""

    title: str
    width: int = 0
    left: bool = False


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def at_least_one(text: str) -> int:
    """Returns a whole number from 1, for `argparse`."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def positive(text: str) -> float:
    """Returns a number above 0, for `argparse`."""
    return _number(text, float, lambda value: value > 0, "a number above 0")


def not_negative(text: str) -> float:
    """Returns a number from 0, for `argparse`."""
    return _number(text, float, lambda value: value >= 0, "a number of at least 0")


def _number(text: str, kind: Callable[[str], Any], holds: Callable[[Any], bool], expected: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value) or not holds(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def output_path(text: str) -> Path:
    """Returns the path of a file that can be written, so that no long run ends without its file."""
    path = Path(text)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}: name a file in a folder that exists and is writable")
    return path


def plot_path(text: str) -> Path:
    """Returns the path of a picture that can be drawn and written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError('plots need matplotlib; install it with: pip install "rnnjax[bench]"')
    path = output_path(text)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"cannot draw {text}: its name must end in .png, .svg or .pdf")
    return path


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


def line(columns: Sequence[Column], cells: Sequence[object]) -> str:
    """Returns one line of a table; cells beyond the columns' number are not shown, missing ones stay empty."""
    parts = []
    for column, cell in zip(columns, cells):
        width = max(column.width, len(column.title))
        parts.append(str(cell).ljust(width) if column.left else str(cell).rjust(width))
    return "  ".join(parts).rstrip()


def title_line(columns: Sequence[Column]) -> str:
    """Returns the first line of a table."""
    return line(columns, [column.title for column in columns])


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
    path.write_text(json.dumps(content, indent=1) + "\n")


def figure(rows: int, columns: int) -> tuple[Any, Any]:
    """Returns a matplotlib figure and its axes, an array ``[rows, columns]``."""
    # Imported here because it takes half a second, and without pyplot, which keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((4.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure in the format that its name ends in."""
    figure.savefig(path, dpi=110)
