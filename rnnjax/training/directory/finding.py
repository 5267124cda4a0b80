"""Finds the directory of a run by its path, or by its name in a sweep: SWEEP/best, or SWEEP/N for run N."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rnnjax.errors import ConfigError
from rnnjax.files import is_object, read_json
from rnnjax.training.directory.run_directory import RunDirectory

RESULTS = "sweep.json"


def find_run(path: str | Path) -> RunDirectory:
    """Returns the directory of a run.

    Args:
      path: of the directory, or of a run in a sweep that has kept its parameters.

    Raises:
      ConfigError: for a sweep without the name of a run, or a name that is not that of a run it has kept.
    """
    path = Path(path)
    if os.path.isdir(path):  # which raises no error for any text
        kept = _kept(path)
        if kept is not None:
            _require_any(path, kept)
            raise ConfigError(f"{path} holds a sweep; name one of its runs, {_names(path, kept)}")
        return RunDirectory(path)
    kept = _kept(path.parent)
    if kept is None:
        return RunDirectory(path)
    _require_any(path.parent, kept)
    directory = kept.get(path.name)
    if not isinstance(directory, str):
        wish = "sweep again with --keep all in another --workdir for others"
        raise ConfigError(f"{path.parent} keeps no run {path.name!r}, only {_names(path.parent, kept)}; {wish}")
    return RunDirectory(path.parent / directory)


def _kept(path: Path) -> dict[str, Any] | None:
    """Returns the directories of the runs that a sweep has kept, by their names; None where there is no sweep."""
    if not os.path.isfile(path / RESULTS):
        return None
    results = read_json(path / RESULTS, is_object, "the sweep makes it again")
    if results is None or not is_object(results.get("kept")):
        return {}
    kept = results["kept"]
    return kept | {"best": kept[str(results["best"])]} if str(results.get("best")) in kept else kept


def _require_any(path: Path, kept: dict[str, Any]) -> None:
    if not kept:
        raise ConfigError(
            f"{path} holds a sweep that has kept no run: end it by the same command, or, if it was given --keep none, "
            "sweep again in another --workdir"
        )


def _names(path: Path, kept: dict[str, Any]) -> str:
    names = sorted(kept, key=lambda name: (name != "best", len(name), name))
    return ", ".join(f"{path}/{name}" for name in names[:5]) + (", ..." if len(names) > 5 else "")
