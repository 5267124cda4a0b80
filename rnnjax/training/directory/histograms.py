"""Histograms of parameters, and the file that keeps them: `histograms.jsonl`, a line for each evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnjax.training.directory.metrics_file import append_rows, read_lines, write_rows

_BINS = 30
_FILE = "histograms.jsonl"


def histogram_row(params: Any, step: int, epoch: int) -> dict[str, Any]:
    """Returns a line with the histogram of every array of parameters; what is not finite is left out.

    Args:
      params: the parameters.
      step: after which they are so.
      epoch: of the step.
    """
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    values = {jax.tree_util.keystr(path, simple=True, separator="/"): _histogram(leaf) for path, leaf in leaves}
    return {"step": step, "epoch": epoch, "split": "histograms", **values}


def _histogram(values: Any) -> dict[str, list[float]]:
    values = np.asarray(values, np.float64).ravel()
    counts, edges = np.histogram(values[np.isfinite(values)], _BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def append_histograms(directory: Path, row: dict[str, Any]) -> None:
    """Adds a line to the file."""
    append_rows(directory / _FILE, [row])


def histograms_until(directory: Path, step: int, source: Path | None = None) -> list[dict[str, Any]]:
    """Returns the undamaged lines up to a step, and leaves no others in the file of a run.

    Args:
      directory: of the run.
      step: the last of which there is a line.
      source: directory of another run, whose lines they are; None for the run's own.
    """
    path = (source or directory) / _FILE
    if not path.is_file():
        return []
    rows = [row for row in read_lines(path, _is_row)[0] if row["step"] <= step]
    write_rows(directory / _FILE, rows)
    return rows


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("step"), int)
