"""Sweeps: groups of runs, each group one compiled program, and their results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from rnnjax.files import read_json, write_json
from rnnjax.machine import device_name, git_commit, versions
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task
from rnnjax.training.grid import Grid, Group, groups
from rnnjax.training.interruption import StopRequest
from rnnjax.training.lock import locked
from rnnjax.training.loop import make_plan
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.run_programs import runs_mesh
from rnnjax.training.sweep_group import is_group_summary, train_group
from rnnjax.training.sweep_report import plot_sweep, points, table

_log = logging.getLogger(__name__)

Left = Sequence[tuple[Group, RunDirectory]]  # groups that are to be trained, and where each is written


def sweep(grid: Grid, directory: RunDirectory, train_left: Callable[[Left, Task], None]) -> dict[str, Any]:
    """Trains all runs of a sweep, or those that are left; returns the results, which it also writes.

    Args:
      grid: the runs.
      directory: where everything is written; its config is `grid.as_dict()`.
      train_left: trains the groups that are left, given the task of the first run, such as `train_in_turn`.

    Raises:
      ConfigError: if a config cannot be run on its data, or the directory is of something else.
      DirectoryInUse: if another process writes there.
      CheckpointError: if checkpoints cannot be written or read.
      Interrupted: if a signal stopped it, after a checkpoint and the results so far.
    """
    directory.check(grid.as_dict())
    found = read_results(directory)
    if found is not None and len(found["runs"]) == len(grid.runs):
        _log.info("this sweep is complete; nothing is left to do")
        return found
    with locked(directory.path):
        return _train(grid, directory, train_left)


def _train(grid: Grid, directory: RunDirectory, train_left: Callable[[Left, Task], None]) -> dict[str, Any]:
    started = time.perf_counter()
    task, seeds_apart = first_task(grid)
    _log.info("data: %s", task.data.source)
    make_plan(task, grid.base)
    all_groups = groups(grid, seeds_apart=seeds_apart)
    directory.claim(grid.as_dict())
    parts = [RunDirectory(directory.path / "groups" / str(number)) for number in range(len(all_groups))]
    left = [(group, own) for group, own in zip(all_groups, parts) if own.summary(is_group_summary) is None]
    _log.info("%d runs; programs: %d, of which %d are left", len(grid.runs), len(parts), len(left))
    try:
        train_left(left, task)
    finally:
        results = gather(grid, task, parts) | {"seconds": round(time.perf_counter() - started, 3)}
        write_results(directory, parts, results)
    plot_sweep(results, directory.metrics(), directory.plots)
    return results


def train_in_turn(left: Left, first: Task) -> None:
    """Trains groups one after the other, each on all devices; `first` is the task of the sweep's first run.

    Raises:
      CheckpointError, Interrupted: as `rnnjax.training.sweep_group.train_group`.
    """
    with StopRequest() as stop:
        for group, directory in left:
            devices = runs_mesh(len(group.runs)).size
            _log.info("%s, over devices: %d", about(group), devices)
            train_group(group, first if group.runs[0].number == 0 else build_task(group.config), directory, stop)


def about(group: Group) -> str:
    """Returns how many runs a group has, and what they have in common of what the sweep is over."""
    values = group.runs[0].values
    common = [name for name in values if name.removeprefix("optimizer.") not in group.traced]
    return ", ".join([f"runs: {len(group.runs)}", *(f"{name}={values[name]}" for name in common)])


def first_task(grid: Grid) -> tuple[Task, bool]:
    """Returns the task of the first run, and whether its data are others with another seed.

    Where they are, a task may also compute otherwise with them: then no program serves two seeds.
    """
    task = build_task(grid.base)
    other = next((run.config for run in grid.runs if run.seed != grid.base.seed), None)
    return task, other is not None and build_task(other).data.checksum != task.data.checksum


def gather(grid: Grid, task: Task, parts: Sequence[RunDirectory]) -> dict[str, Any]:
    """Returns the results of the groups that are complete."""
    summaries = [summary for summary in (own.summary(is_group_summary) for own in parts) if summary is not None]
    runs = sorted((run for summary in summaries for run in summary["runs"]), key=lambda run: run["run"])
    return {
        "metric": task.best_metric,
        "higher_is_better": task.higher_is_better,
        "runs": runs,
        "points": points(runs),
        "groups": [{**summary, "runs": [run["run"] for run in summary["runs"]]} for summary in summaries],
        "device": {"platform": jax.default_backend(), "kind": device_name(), "count": jax.local_device_count()},
        "versions": versions(),
        "git_commit": git_commit(),
        "data": {"name": task.data.name, "source": task.data.source, "checksum": task.data.checksum},
    }


def write_results(directory: RunDirectory, parts: Sequence[RunDirectory], results: dict[str, Any]) -> None:
    """Writes `metrics.jsonl`, the lines of the groups that are complete, and `sweep.json`."""
    complete = (own for own in parts if own.summary(is_group_summary) is not None)
    directory.write_metrics(row for own in complete for row in own.metrics())
    write_json(directory.path / "sweep.json", results)


def read_results(directory: RunDirectory) -> dict[str, Any] | None:
    """Returns the results of a sweep; None where there are none of which a table can be made."""
    return read_json(directory.path / "sweep.json", _makes_a_table, "it is made again")


def _makes_a_table(results: Any) -> bool:
    try:
        return isinstance(results["runs"], list) and bool(table(results))
    except (TypeError, LookupError, ValueError, AttributeError):
        return False
