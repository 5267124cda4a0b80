"""A sweep that grows: by the same command with more seeds or values. Its runs keep their numbers, new ones follow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rnnjax.config_group import to_dict
from rnnjax.errors import ConfigError, DataError
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.sweeps.grid import MOST_RUNS, Grid, Run
from rnnjax.training.sweeps.report import point_name


def grown(grid: Grid, directory: RunDirectory) -> Grid:
    """Returns a sweep with the runs that its directory has in the places that they have there, and new ones behind.

    Args:
      grid: the sweep, all of it.
      directory: of the sweep.

    Raises:
      ConfigError: if the directory has runs that are none of this sweep, or something else.
    """
    stored = directory.config().get("sweep") if directory.holds_config() else None
    earlier = _asked(stored)
    if stored is None or earlier is None:
        directory.check(grid.as_dict())
        return grid
    fields = list(earlier[0]["values"])
    _require_fields(fields, grid, directory)
    # In the order of the first command, by which the runs are numbered.
    grid = grid._replace(values={name: grid.values[name] for name in fields})
    if earlier[-1] == json.loads(json.dumps(grid.asked())):
        earlier.pop()
    runs = list(_in_their_places(grid, earlier, directory))
    whole = grid._replace(base=runs[0].config, runs=runs, before=earlier)
    # All but the seeds and values, by which it may have grown, must be as it was.
    directory.check(to_dict(whole.base) | {"sweep": stored | {"at_once": grid.at_once, "keep": grid.keep}})
    return whole


def _asked(stored: Any) -> list[dict[str, Any]] | None:
    """Returns the seeds and values of a sweep's parts from `config.json`; None if it has none that can be read."""
    if not isinstance(stored, dict) or not isinstance(stored.get("before", []), list):
        return None
    parts = [*stored.get("before", []), stored]
    if not all(map(_is_asked, parts)) or any(part["values"].keys() != parts[0]["values"].keys() for part in parts):
        return None
    return [{name: part[name] for name in ("seeds", "values")} for part in parts]


def _is_asked(part: Any) -> bool:
    """Says whether a value from a JSON file has seeds and values as `Grid.asked` returns them."""
    if not isinstance(part, dict) or not isinstance(part.get("values"), dict):
        return False
    seeds, lists = part.get("seeds"), part["values"].values()
    return isinstance(seeds, int) and 1 <= seeds <= MOST_RUNS and all(isinstance(each, list) for each in lists)


def claim(grid: Grid, directory: RunDirectory, checksum: str) -> None:
    """Writes what identifies a sweep, and its data, into its directory.

    Args:
      grid: the sweep, as `grown` returned it.
      directory: of the sweep.
      checksum: of the data of its first run.

    Raises:
      ConfigError: if it cannot be written.
      DataError: if the runs that are there were trained on other data.
    """
    asked = grid.as_dict()
    stored = directory.config() if directory.holds_config() else asked
    if stored["sweep"].get("data", checksum) != checksum:
        raise DataError(
            f"the runs in {directory.path} were trained on other data than there is now; restore that, or "
            "choose another --workdir"
        )
    directory.write_config(stored | {"sweep": asked["sweep"] | {"data": checksum}})


def _in_their_places(grid: Grid, earlier: list[dict[str, Any]], directory: RunDirectory) -> Iterator[Run]:
    """Yields the runs of a sweep: those of every earlier command in its order, and those that are left."""
    left = {_key(run.values, run.seed): run for run in grid.runs}
    known, numbers = dict(left), itertools.count()
    for part, asked in enumerate([*earlier, grid.asked()]):
        for values, seed in itertools.product(_points(asked["values"], list(grid.values)), range(asked["seeds"])):
            key = _key(values, grid.base.seed + seed)
            if key not in known:
                raise ConfigError(
                    f"{directory.path} holds a sweep with a run that this one has not "
                    f"({point_name(values | {'seed': grid.base.seed + seed})}); a sweep may be given more seeds and "
                    "values, but none may be left out; choose another --workdir"
                )
            run = left.pop(key, None)
            if run is not None:
                yield run._replace(number=next(numbers), values=values, part=part)


def _require_fields(fields: list[str], grid: Grid, directory: RunDirectory) -> None:
    if set(fields) != set(grid.values):
        there, here = (", ".join(sorted(names)) or "seeds alone" for names in (fields, grid.values))
        raise ConfigError(f"{directory.path} holds a sweep over {there}, not over {here}; choose another --workdir")


def _points(values: Mapping[str, list[Any]], fields: list[str]) -> Iterator[dict[str, Any]]:
    return (dict(zip(fields, point)) for point in itertools.product(*(values[name] for name in fields)))


def _key(values: Mapping[str, Any], seed: int) -> str:
    return json.dumps([values, seed], sort_keys=True)
