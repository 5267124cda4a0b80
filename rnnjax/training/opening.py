"""What comes before training: locking the run directory, and checking that all processes see it and the same data.

An error in one process is raised in all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from rnnjax.config import TrainConfig
from rnnjax.errors import ConfigError
from rnnjax.parallel.agreement import CollectiveError, difference, in_all_processes, made_in_each_process
from rnnjax.parallel.distributed import is_writer
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Kept, Task
from rnnjax.training.directory.lock import mark_of
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import is_summary

_VISIBLE_WITHIN = 5.0  # seconds until a shared disk shows one host what another has written


@contextlib.contextmanager
def opened(
    run: RunDirectory, config: dict[str, Any], parent: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any] | None]:
    """Locks a run directory against other runs, and yields the run's summary if it is complete, otherwise None.

    If there are several processes, those that do not write get an empty summary of a complete run.

    Args:
      run: the directory.
      config: of the run, as JSON can hold it.
      parent: what it is to begin with, if with another run, as JSON can hold it.

    Raises:
      ConfigError: if the directory holds another config's run or something else, or differs between processes.
      DirectoryInUse: if another run writes there.
    """
    with contextlib.ExitStack() as locks:
        summary: dict[str, Any] | None = None

        def lock_unless_complete() -> dict[str, str]:
            nonlocal summary
            if not run.writes:
                return {}
            run.check(config)
            run.check_parent(parent)
            summary, mark = _summary(run), ""
            if summary is None:
                mark = locks.enter_context(run.locked())
                run.check(config)  # again: another run may have written there before the lock was taken
                summary = _summary(run)
            return {"path": str(run.path.absolute()), "mark": mark}

        writer = in_all_processes(lock_unless_complete)[0]
        in_all_processes(lambda: _check_same_directory(run, **writer))
        complete = in_all_processes(lambda: summary is not None)[0]
        yield {} if complete and summary is None else summary


def _summary(run: RunDirectory) -> dict[str, Any] | None:
    """Returns the summary of a run; None if it is not complete, or is to be resumed to make its `model.json` again."""
    return None if run.model_is_lost() else run.summary(is_summary)


def _check_same_directory(run: RunDirectory, path: str, mark: str) -> None:
    """Raises `ConfigError` if this is not the directory that the writing process has locked with a mark."""
    end = time.monotonic() + _VISIBLE_WITHIN
    while mark and mark_of(run.path) != mark:
        if time.monotonic() < end:
            time.sleep(0.1)
            continue
        raise ConfigError(
            f"--workdir is {path} in process 0, but {run.path.absolute()} in process {jax.process_index()}; "
            "give all one directory that all of them reach"
        )


def task_of_all(config: TrainConfig, kept: Kept | None = None) -> Task:
    """Returns the task with its data. The writing process reads the data first, so that it alone prepares it.

    Args:
      config: the config.
      kept: what a run has kept, as for `build_task`.

    Raises:
      ConfigError, DataError: as `build_task`, or if the processes do not read the same data.
    """
    first = made_in_each_process(lambda: build_task(config, kept) if is_writer() else None)
    task = made_in_each_process(lambda: first or build_task(config, kept))
    checksums = in_all_processes(lambda: task.data.checksum)
    sentence = difference([{"data": {"checksum": checksum}} for checksum in checksums])
    if sentence is not None:
        raise CollectiveError(ConfigError(sentence))
    return task
