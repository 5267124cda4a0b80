"""Sweeps: groups of runs, each group trained by one compiled program, and their results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from rnnjax.files import read_json, write_json
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task
from rnnjax.training.directory.finding import RESULTS
from rnnjax.training.directory.lock import locked
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import computed_with, score_of
from rnnjax.training.engine import training_schedule
from rnnjax.training.interruption import StopRequest
from rnnjax.training.sinks.named import followers
from rnnjax.training.sweeps.best import KEPT
from rnnjax.training.sweeps.grid import Grid, Group, check_devices, data_point, grouped, groups
from rnnjax.training.sweeps.group import is_group_summary, train_group
from rnnjax.training.sweeps.growth import claim, grown
from rnnjax.training.sweeps.report import plot_sweep, points, table

_log = logging.getLogger(__name__)

PendingGroups = Sequence[tuple[Group, RunDirectory]]  # groups still to be trained, each with its directory


def sweep(grid: Grid, directory: RunDirectory, train_groups: Callable[[PendingGroups, Task], None]) -> dict[str, Any]:
    """Trains the runs of a sweep that are not complete; returns the results of all, which it also writes.

    Args:
      grid: the runs, of which the directory may have some.
      directory: where everything is written.
      train_groups: trains the groups that are not complete, given the task of the first run, as `train_in_turn` does.

    Raises:
      ConfigError: if a config cannot be run on its data, or the directory is of something else.
      DataError: if the runs in the directory were trained on other data.
      DirectoryInUse: if another process writes there.
      CheckpointError: if checkpoints cannot be written or read.
      Interrupted: if a signal stopped it, after a checkpoint and the results so far.
    """
    grid = grown(grid, directory)
    followers(grid.base.sinks)  # refuses those that cannot be made, before anything is trained
    results = read_results(directory)
    if results is not None and len(results["runs"]) == len(grid.runs):
        _log.info("this sweep is complete; nothing is left to do")
        return results
    with locked(directory.path):
        return _train(grown(grid, directory), directory, train_groups)


def _train(grid: Grid, directory: RunDirectory, train_groups: Callable[[PendingGroups, Task], None]) -> dict[str, Any]:
    started = time.perf_counter()
    task, seeds_apart = build_first_task(grid)
    _log.info("data: %s", task.data.source)
    # Both raise if the config cannot be run, on this data and these devices.
    training_schedule(task, grid.base)
    check_devices(grid)
    all_groups = groups(grid, seeds_apart=seeds_apart)
    directories = [RunDirectory(directory.path / "groups" / str(number)) for number in range(len(all_groups))]
    for group, group_directory in zip(all_groups, directories):
        group_directory.check(group.as_dict())  # of those too that are complete
    claim(grid, directory, task.data.checksum)
    pending = [pair for pair in zip(all_groups, directories) if pair[1].summary(is_group_summary) is None]
    _log.info("%d runs; programs: %d, of which %d are left", len(grid.runs), len(directories), len(pending))
    try:
        train_groups(pending, task)
    finally:
        results = gather(grid, task, directories) | {"seconds": round(time.perf_counter() - started, 3)}
        write_results(directory, directories, results)
    plot_sweep(results, directory.metrics(), directory.plots)
    return results


def train_in_turn(pending: PendingGroups, first_task: Task) -> None:
    """Trains groups one after another, each on all devices; `first_task` is the task of the sweep's first run.

    Raises:
      CheckpointError, Interrupted: as `rnnjax.training.sweeps.group.train_group`.
    """
    with StopRequest() as stop:
        for group, directory in pending:
            _log.info("%s, over devices: %d", about(group), group.mesh().size)
            task = first_task if group.runs[0].number == 0 else build_task(group.config)
            train_group(group, task, directory, stop)


def about(group: Group) -> str:
    """Returns a phrase for the log: how many runs a group has, and the swept values that they have in common."""
    values = group.runs[0].values
    common = [name for name in values if name.removeprefix("optimizer.") not in group.traced]
    return ", ".join([f"runs: {len(group.runs)}", *(f"{name}={values[name]}" for name in common)])


def build_first_task(grid: Grid) -> tuple[Task, set[str]]:
    """Returns the task of the first run, and each `data_point` of the sweep whose data depends on the seed.

    If the data does, what a task computes may do so too; then one program cannot train runs of different seeds.
    """
    first_task, seeds_apart = build_task(grid.base), set()
    for first, *others in grouped(grid.runs, data_point):
        other = next((run for run in others if run.values == first.values), None)  # with another seed
        if other is not None:
            task = first_task if first.number == grid.runs[0].number else build_task(first.config)
            if build_task(other.config).data.checksum != task.data.checksum:
                seeds_apart.add(data_point(first))
    return first_task, seeds_apart


def gather(grid: Grid, task: Task, directories: Sequence[RunDirectory]) -> dict[str, Any]:
    """Returns the results of the groups that are complete."""
    found = {directory.path.name: directory.summary(is_group_summary) for directory in directories}
    summaries = {name: summary for name, summary in found.items() if summary is not None}
    runs = sorted((run for summary in summaries.values() for run in summary["runs"]), key=lambda run: run["run"])
    # By the run's number as text, relative to the directory of the sweep.
    kept = {
        str(number): f"groups/{name}/{KEPT}/{number}"
        for name, summary in summaries.items()
        for number in summary["kept"]
    }
    return {
        "metric": task.best_metric,
        "higher_is_better": task.higher_is_better,
        "runs": runs,
        "kept": kept,
        "best": best_kept(task, runs, kept),
        "points": points(runs),
        "groups": [{**summary, "runs": [run["run"] for run in summary["runs"]]} for summary in summaries.values()],
        **computed_with(task, jax.local_device_count()),
    }


def best_kept(task: Task, runs: Sequence[dict[str, Any]], kept: Mapping[str, str]) -> int | None:
    """Returns the number of the run that is best of those kept, the first of equals; None if there are none."""
    able = [run for run in runs if str(run["run"]) in kept and run["best"]]
    best = max(able, key=lambda run: (score_of(task, run["best"]), -run["run"]), default=None)
    return None if best is None else best["run"]


def write_results(directory: RunDirectory, directories: Sequence[RunDirectory], results: dict[str, Any]) -> None:
    """Writes `metrics.jsonl`, with the lines of all complete groups, and `sweep.json`.

    Args:
      directory: of the sweep.
      directories: of its groups.
      results: as `gather` returns them.
    """
    complete = [group for group in directories if group.summary(is_group_summary) is not None]
    directory.write_metrics(row for group in complete for row in group.metrics())
    write_json(directory.path / RESULTS, results)


def read_results(directory: RunDirectory) -> dict[str, Any] | None:
    """Returns the results of a sweep; None if there are none, or a table cannot be made of them."""
    return read_json(directory.path / RESULTS, _makes_a_table, "it is made again")


def _makes_a_table(results: Any) -> bool:
    try:
        return isinstance(results["runs"], list) and bool(table(results))
    except (TypeError, LookupError, ValueError, AttributeError):
        return False
