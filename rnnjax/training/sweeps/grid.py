"""The runs of a sweep: seeds times the cross product of lists of values, in groups that one program can train."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from rnnjax.config import OptimizerConfig, ParallelConfig, TrainConfig
from rnnjax.config_flags import is_list, read_config
from rnnjax.config_group import freeze, to_dict
from rnnjax.errors import require
from rnnjax.optimizer import build_optimizer, fewest_steps
from rnnjax.parallel.mesh import runs_mesh

_OPTIMIZER = "optimizer."
MOST_RUNS = 100_000
KEEP = ("best", "all", "none")
T = TypeVar("T")


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
      number: of the run, from 0.
      seed: of the run.
      values: its values of the fields that the sweep is over.
      config: its config.
      part: of the sweep, from 0; a sweep that has grown has several, which share no program.
    """

    number: int
    seed: int
    values: dict[str, Any]
    config: TrainConfig
    part: int = 0


class Grid(NamedTuple):
    """A sweep.

    Attributes:
      base: the config that its runs share, with the values of the first run.
      seeds: number of seeds at every point of the grid.
      values: the values of each field that the sweep is over.
      runs: the runs.
      at_once: how many of them one program may train at most; None for no limit.
      keep: of which runs the parameters are kept: "best" of every group, "all" or "none".
      before: the seeds and values that its earlier parts were asked for by, if it has grown.
    """

    base: TrainConfig
    seeds: int
    values: dict[str, list[Any]]
    runs: list[Run]
    at_once: int | None
    keep: str = "best"
    before: Sequence[dict[str, Any]] = ()

    def asked(self) -> dict[str, Any]:
        """Returns the seeds and values, by which a sweep may grow."""
        return {"seeds": self.seeds, "values": self.values}

    def as_dict(self) -> dict[str, Any]:
        """Returns what identifies the sweep, as JSON can hold it."""
        before = {"before": list(self.before)} if self.before else {}
        return to_dict(self.base) | {"sweep": self.asked() | {"at_once": self.at_once, "keep": self.keep} | before}


class Group(NamedTuple):
    """Runs that one compiled program trains: they differ in the seed and in the `traced` fields of the optimiser."""

    runs: list[Run]
    traced: tuple[str, ...]
    keep: str = "best"

    def mesh(self) -> Mesh:
        """Returns the devices that train the group."""
        return runs_mesh(len(self.runs), *_split(self.config))

    @property
    def config(self) -> TrainConfig:
        """The config of the first run; the others differ in the seed and in the traced fields."""
        return self.runs[0].config

    def as_dict(self) -> dict[str, Any]:
        """Returns what identifies the group, as JSON can hold it."""
        runs = [{"run": run.number, "seed": run.seed, "values": run.values} for run in self.runs]
        return to_dict(self.config) | {"runs": runs, "keep": self.keep}

    def traced_values(self) -> dict[str, Float[np.ndarray, " R"]]:
        """Returns the values of the traced fields, by their names in `OptimizerConfig`."""
        return {
            name: np.array([getattr(run.config.optimizer, name) for run in self.runs], np.float32)
            for name in self.traced
        }


def read_grid(
    arguments: Sequence[str], seeds: int, at_once: int | None, keep: str = "best"
) -> tuple[Grid, str, Path | None]:
    """Returns the sweep, a name for it, and the work directory.

    Args:
      arguments: as `rnnjax.config_flags.read_config` takes them, with lists of values where there are commas; with
        semicolons between values that have commas themselves, such as ``--config.cell.wrappers=residual,dropout;none``.
      seeds: how many seeds every point of the grid has.
      at_once: how many runs one program may train at most; None for no limit.
      keep: of which runs the parameters are kept, as in `Grid`.

    Raises:
      ConfigError: as `rnnjax.config_flags.read_config`, and for numbers or lists that make no sweep.
    """
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    require(keep in KEEP, f"--keep must be one of {', '.join(KEEP)}, got {keep!r}")
    require(at_once is None or at_once >= 1, f"--at-once must be at least 1, got {at_once}")
    stray = next((each for each in arguments if re.match("--?(init_from|extend)(=|$)", each)), None)
    require(stray is None, f"every run of a sweep begins afresh, without {stray}; use that with rnnjax.train")
    fixed, lists = _lists(arguments)
    require("seed" not in lists, "a sweep takes its seeds from --seeds, from config.seed on; give one config.seed")
    require("task" not in lists, "a sweep is of one task; give one config.task")
    count = seeds * math.prod(map(len, lists.values()))
    require(count <= MOST_RUNS, f"a sweep has at most {MOST_RUNS} runs, and --seeds and the lists make {count}")
    points = []
    for texts in itertools.product(*lists.values()):
        chosen = [f"--config.{field}={text}" for field, text in zip(lists, texts)]
        base, name, workdir = read_config([*fixed, *chosen])
        _check_parallel(base.parallel)
        points.append((base, {field: _value(base, field) for field in lists}))
    values = {field: list(dict.fromkeys(point[field] for _, point in points)) for field in lists}
    for field, texts in lists.items():
        require(len(values[field]) == len(texts), f"--config.{field} has a value twice in {_joined(texts)!r}")
    return Grid(points[0][0], seeds, values, _runs(points, seeds), at_once, keep), name, workdir


def _joined(texts: Sequence[str]) -> str:
    return (";" if any("," in text for text in texts) else ",").join(texts)


def one_of_each(arguments: Iterable[str]) -> list[str]:
    """Returns the arguments of one run, which has the first value of every list.

    Raises:
      ConfigError: for an empty value in a list.
    """
    fixed, lists = _lists(arguments)
    return [*fixed, *(f"--config.{field}={texts[0]}" for field, texts in lists.items())]


def _lists(arguments: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the arguments that are not lists of values, and the lists by the names of their fields.

    Values are separated by semicolons where there are any, else by commas, except those of a field that is a list.
    """
    fixed, lists, arguments = [], {}, list(arguments)
    for argument in arguments:
        flag = re.fullmatch(r"--?(?:no)?config\.([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if flag is None:
            fixed.append(argument)
            continue
        field, text = flag[1], flag[2] or ""
        lists.pop(field, None)  # of several flags of a field the last one counts
        if ";" in text or ("," in text and not is_list(arguments, field)):
            lists[field] = text.split(";" if ";" in text else ",")
            require(all(lists[field]), f"--config.{field} has an empty value in {text!r}")
        else:
            fixed.append(argument)
    return fixed, lists


def _value(config: TrainConfig, field: str) -> Any:
    """Returns a field's value; a list as the text that a flag says it with."""
    value = functools.reduce(getattr, field.split("."), config)
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _check_parallel(config: ParallelConfig) -> None:
    """Raises `ConfigError` if one run is to have all devices, which those of a sweep share."""
    for name in ("batch", "layers", "time"):
        require(
            getattr(config, name) != "all",
            f'parallel.{name} is "all", but the runs of a sweep share the devices; give the number for each run, or '
            f"leave parallel.{name} out",
        )


def _split(config: TrainConfig) -> tuple[str, str, str]:
    parallel = config.parallel
    return parallel.batch, parallel.layers, parallel.time


def check_devices(grid: Grid) -> None:
    """Raises `ConfigError` if there are fewer devices than a run takes."""
    for split in {_split(run.config) for run in grid.runs}:
        runs_mesh(1, *split)


def _runs(points: Sequence[tuple[TrainConfig, dict[str, Any]]], seeds: int) -> list[Run]:
    numbers = itertools.count()
    return [
        Run(next(numbers), seed, values, freeze(dataclasses.replace(base, seed=seed)))
        for base, values in points
        for seed in range(base.seed, base.seed + seeds)
    ]


_NOT_OF_DATA = {field.name for field in dataclasses.fields(TrainConfig)} - {"data"}  # whatever the seed does to it


def data_point(run: Run) -> str:
    """Returns as text the values of a run that may decide whether its data depends on the seed."""
    return _identity(run, [name for name in run.values if name.split(".")[0] in _NOT_OF_DATA])


def groups(grid: Grid, *, seeds_apart: Collection[str] = ()) -> list[Group]:
    """Returns the groups of runs that one program each can train.

    Fields of the optimiser that can be arrays may differ within a group; which fields can is tried out.

    Args:
      grid: the sweep.
      seeds_apart: each `data_point` at which runs of different seeds are in different groups.
    """
    # Of each part by itself, so that values which are added later change no group of those that are there.
    return [
        group for part in grouped(grid.runs, lambda run: run.part) for group in _groups_of_part(grid, part, seeds_apart)
    ]


def _groups_of_part(grid: Grid, runs: Sequence[Run], seeds_apart: Collection[str]) -> list[Group]:
    floats = [name for name in grid.values if name.startswith(_OPTIMIZER) and _all_float(runs, name)]
    result = []
    for alike in grouped(
        runs, lambda run: (_identity(run, floats), run.seed if data_point(run) in seeds_apart else None)
    ):
        names = [name.removeprefix(_OPTIMIZER) for name in floats]
        traced = tuple(name for name in names if takes_array(alike[0].config.optimizer, name))
        fixed = [name for name in floats if name.removeprefix(_OPTIMIZER) not in traced]
        for same in grouped(alike, lambda run, fixed=fixed: tuple(run.values[name] for name in fixed)):
            size = grid.at_once or len(same)
            parts = [same[first : first + size] for first in range(0, len(same), size)]
            result += [Group(part, traced, grid.keep) for part in parts]
    return result


def _all_float(runs: Sequence[Run], name: str) -> bool:
    return all(type(run.values[name]) is float for run in runs)


def _identity(run: Run, but: Sequence[str]) -> str:
    """Returns the values of a run as text, except for those of some fields."""
    return json.dumps({name: value for name, value in run.values.items() if name not in but})


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Returns the items in groups of equal keys, in the order of their first items."""
    by_key: dict[Hashable, list[T]] = {}
    for item in items:
        by_key.setdefault(key(item), []).append(item)
    return list(by_key.values())


def takes_array(config: OptimizerConfig, name: str) -> bool:
    """Says whether the optimiser can be built and used with a traced array as the value of a field."""

    def update(value: Any) -> Any:
        optimizer = build_optimizer(config, fewest_steps(config), traced={name: value})
        params = jnp.zeros(2)
        return optimizer.update(params, optimizer.init(params), params)

    try:
        jax.eval_shape(update, jax.ShapeDtypeStruct((), jnp.float32))
    except jax.errors.JAXTypeError:  # it needs a concrete number
        return False
    return True
