"""Trains the groups of a sweep as tasks of a Ray cluster. Ray is an optional package."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from rnnjax.cache import keep_compilations
from rnnjax.errors import ConfigError, TrainingError
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.sweeps.best import KEPT
from rnnjax.training.sweeps.grid import Group
from rnnjax.training.sweeps.group import train_group
from rnnjax.training.sweeps.sweep import PendingGroups, about

_log = logging.getLogger(__name__)


def ray_trainer() -> Callable[[PendingGroups, Task], None]:
    """Returns a function for `rnnjax.training.sweeps.sweep.sweep` that trains the groups of a sweep on a Ray cluster.

    Raises:
      ConfigError: if Ray is not installed.
    """
    try:
        import ray  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError('--ray needs the package ray; install it with: pip install "rnnjax[ray]"') from error
    return train_on_ray


def train_on_ray(groups: PendingGroups, first_task: Task) -> None:
    """Trains every group as a task of the Ray cluster at RAY_ADDRESS, or of one that is started on this machine.

    A task gets a GPU if the cluster has any, otherwise a CPU core. Its node needs rnnjax and the data, at the place
    that the config or RNNJAX_DATA names; what the task writes is copied to the work directory here.

    Raises:
      TrainingError: if Ray lost a task.
      Interrupted: if a signal stopped it; complete groups are kept.
    """
    import ray  # pyright: ignore[reportMissingImports]

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    task = ray.remote(train_alone).options(num_cpus=1, num_gpus=gpus)
    pending = {task.remote(group): (group, directory) for group, directory in groups}
    with StopRequest() as stop:  # after Ray has set its own handlers
        while pending:
            for finished in ray.wait(list(pending), timeout=1.0)[0]:
                group, directory = pending.pop(finished)
                try:
                    write_group(group, directory, *ray.get(finished))
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise TrainingError(f"a Ray task failed ({reason}); run again to resume") from error
                _log.info("%s: done, tasks left: %d", about(group), len(pending))
            if stop.signal and pending:
                for unfinished in pending:
                    ray.cancel(unfinished, force=True)
                raise Interrupted(f"stopped by {stop.signal}, {len(pending)} of {len(groups)} tasks not complete")


def train_alone(group: Group) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, bytes]]:
    """Trains a group in a process of its own, on one device.

    Returns:
      its summary, its metrics, and the files of the runs that are kept by their paths in the group's directory.
    """
    if jax.config.values["jax_num_cpu_devices"] <= 0:
        jax.config.update("jax_num_cpu_devices", 1)
    keep_compilations()
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "group")
        train_group(group, build_task(group.config), directory, StopRequest())
        summary = directory.summary()
        assert summary is not None
        files = [path for path in (directory.path / KEPT).rglob("*") if path.is_file()]
        contents = {str(path.relative_to(directory.path)): path.read_bytes() for path in files}
        return summary, directory.metrics(), contents


def write_group(
    group: Group,
    directory: RunDirectory,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    files: Mapping[str, bytes],
) -> None:
    """Writes what a Ray task returned into a group's directory, in place of what an earlier attempt left there.

    Args:
      group: the group.
      directory: its directory.
      summary: of the group.
      rows: lines of `metrics.jsonl`.
      files: those of the runs that are kept, by their paths in the directory.
    """
    shutil.rmtree(directory.path, ignore_errors=True)
    directory.claim(group.as_dict())
    directory.append_metrics(rows)
    for name, content in files.items():
        path = directory.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    directory.write_summary(summary)
