"""What comes before training: the directory is this run's alone, and all processes of the run see it and the same data.

What is wrong in one process is said by all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from rnnjax.config import TrainConfig
from rnnjax.errors import ConfigError
from rnnjax.parallel.agreement import OfAll, difference, in_all
from rnnjax.parallel.distributed import is_writer
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task
from rnnjax.training.lock import locked, mark_of
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.summary import is_summary

_PATIENCE = 5.0  # seconds in which a shared disk shows one host what another has written


@contextlib.contextmanager
def opened(run: RunDirectory, config: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Within it no other run writes in the directory; gives the summary of a run that is complete, where it may.

    Of several processes those that do not write are given an empty summary.

    Raises:
      ConfigError: if it holds another config's run or something else, or is not the same for all processes.
      DirectoryInUse: if another run writes there.
    """
    with contextlib.ExitStack() as kept:
        summary: dict[str, Any] | None = None

        def enter() -> dict[str, str]:
            nonlocal summary
            if not run.writes:
                return {}
            run.check(config)
            summary, mark = run.summary(is_summary), ""
            if summary is None:
                mark = kept.enter_context(locked(run.path))
                run.check(config)  # again: another may have written until now
                summary = run.summary(is_summary)
            return {"path": str(run.path.absolute()), "mark": mark}

        of_writer = in_all(enter)[0]
        complete = in_all(lambda: _look(run, **of_writer) or summary is not None)[0]
        yield {} if complete and summary is None else summary


def _look(run: RunDirectory, path: str, mark: str) -> None:
    """Raises `ConfigError` if this is not the directory in which the writing process has left its mark."""
    end = time.monotonic() + _PATIENCE
    while mark and mark_of(run.path) != mark:
        if time.monotonic() < end:
            time.sleep(0.1)
            continue
        raise ConfigError(
            f"--workdir is {path} in process 0, but {run.path.absolute()} in process {jax.process_index()}; "
            "give all one directory that all of them reach"
        )


def task_of_all(config: TrainConfig) -> Task:
    """Returns the task with its data, which the writing process reads first: the others find what it prepares.

    Raises:
      ConfigError, DataError: as `build_task`, or if the processes do not read the same data.
    """
    tasks: list[Task] = []

    def read(mine: bool) -> dict[str, str]:
        if mine:
            tasks.append(build_task(config))
        return {"checksum": tasks[0].data.checksum, "source": tasks[0].data.source} if tasks else {}

    in_all(lambda: read(is_writer()))
    found = in_all(lambda: read(not is_writer()))
    sentence = difference([{"data": {"checksum": each["checksum"]}} for each in found])
    if sentence is not None:
        raise OfAll(ConfigError(sentence))
    return tasks[0]
