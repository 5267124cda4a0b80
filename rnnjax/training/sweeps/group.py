"""Trains a group of a sweep: runs that share one program."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from rnnjax.config_group import to_dict
from rnnjax.files import is_number
from rnnjax.parallel.mesh import RUNS
from rnnjax.tasks.task import Task
from rnnjax.training.calls import train_and_test
from rnnjax.training.directory.checkpoint import Checkpoints, Unfinished
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import summarise
from rnnjax.training.engine import Engine, Runs, plan
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import steps_in
from rnnjax.training.record import Beginning
from rnnjax.training.sinks.named import followers
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.state import from_items, initial_train_state, params_of_run, place_states, stack
from rnnjax.training.sweeps.best import KEPT, BestParams, items_of_runs, kept, no_best_params, write_run
from rnnjax.training.sweeps.grid import Group
from rnnjax.training.sweeps.group_record import GroupRecord, Rows, RowsByRun
from rnnjax.unrolling.auto import using

_log = logging.getLogger(__name__)


def train_group(group: Group, task: Task, directory: RunDirectory, stop: StopRequest) -> None:
    """Trains the runs of a group, or resumes from their last checkpoint; writes metrics and summary.

    Args:
      group: the runs.
      task: the task of all runs.
      directory: of the group.
      stop: tells of signals.

    Raises:
      CheckpointError: if checkpoints cannot be written or read.
      Interrupted: if a signal stopped it, after a checkpoint.
    """
    if stop.signal:
        raise Interrupted(f"stopped by {stop.signal} between two groups")
    started = time.perf_counter()
    config, runs = group.config, Runs([run.seed for run in group.runs], group.traced_values())
    plan(task, config, len(group.runs))
    engine = Engine(task, config, group.mesh(), runs)
    directory.claim(group.as_dict())
    # By the rule alone, so that what was measured on a machine does not change a sweep's results.
    with using(()), open_checkpoints(directory, task, group.as_dict()) as checkpoints:
        begin, diverged, best = initial_or_restored(engine, group, checkpoints)
        directory.keep_metrics_until(begin.step, steps_in(begin.unfinished.window))
        record = GroupRecord(engine, begin, checkpoints, group, directory, diverged, best)
        trained = train_and_test(engine, begin, record, stop)
    times = {
        "seconds": round(time.perf_counter() - started, 3),
        "compile_seconds": round(engine.steps.compile_seconds, 3),
        "steps_per_second": round(len(group.runs) * trained.steps_per_second, 3),
    }
    rows = record.rows_by_run()
    write_to_sinks(group, directory, rows)
    devices_of_run = engine.mesh.size // engine.mesh.shape[RUNS]
    last = engine.schedule.steps, trained.states.evaluated
    kept_runs = write_kept(record, rows, last, lambda rows: summarise(task, rows, devices_of_run, times))
    directory.write_summary({"runs": record.results(rows), "kept": kept_runs, "devices": engine.mesh.size, **times})
    # With its summary a group is complete, and never resumed.
    shutil.rmtree(directory.checkpoints, ignore_errors=True)


def write_to_sinks(group: Group, directory: RunDirectory, rows: RowsByRun) -> None:
    """Writes the lines of every run of a group to TensorBoard and the sinks of its config, each as a run of its own.

    When the group is trained, since thousands of runs may be trained at once; before its summary, without which a
    killed sweep does it again.

    Args:
      group: the runs.
      directory: of the group; a run's own is ``sinks/NUMBER`` in it.
      rows: the lines of every run.
    """
    for run in group.runs:
        config = to_dict(run.config) | {"sweep": {"run": run.number, "values": run.values}}
        with Sinks(lambda rows: None, followers(group.config.sinks)) as sinks:
            sinks.open(config, directory.path / "sinks" / str(run.number), rows[run.number])


def write_kept(
    record: GroupRecord, rows: RowsByRun, last: tuple[int, Any], summary: Callable[[Rows], dict[str, Any]]
) -> list[int]:
    """Writes the directories of the runs that are kept; returns their numbers.

    Args:
      record: of the group.
      rows: the lines of every run.
      last: the last step, and the parameters of all runs after it, each leaf ``[padded, ...]``.
      summary: returns that of a run, from its lines.
    """
    group, best = record.group, record.best
    if best is None:
        return []
    chosen = kept(group.keep, best, record.diverged)
    for index in chosen:
        run = group.runs[index]
        params = {step: params_of_run(of_all, index) for step, of_all in ((int(best.step[index]), best.params), last)}
        path = record.directory.path / KEPT / str(run.number)
        write_run(record.task, run, rows[run.number], params, summary(rows[run.number]), path)
    return [group.runs[index].number for index in chosen]


def is_group_summary(value: Any) -> bool:
    """Says whether a value from a JSON file is a summary as `train_group` writes it."""
    if not isinstance(value, dict) or not all(is_number(value.get(name)) for name in ("devices", *_TIMES)):
        return False
    runs = value.get("runs")
    if not isinstance(value.get("kept"), list):
        return False
    return isinstance(runs, list) and all(isinstance(run, dict) and run.keys() == _RUN_FIELDS for run in runs)


_TIMES = ("seconds", "compile_seconds", "steps_per_second")
_RUN_FIELDS = {"run", "seed", "values", "diverged", "final", "best"}


def initial_or_restored(
    engine: Engine, group: Group, checkpoints: Checkpoints
) -> tuple[Beginning, Int[np.ndarray, " runs"], BestParams | None]:
    """Returns what to begin with: the states of the last checkpoint, or fresh ones if there is none.

    A checkpoint holds the runs without padding, so that training can resume on another number of devices.

    Args:
      engine: of the runs.
      group: the runs.
      checkpoints: of the group.

    Returns:
      the beginning; for each run, the step at which it diverged, 0 if it has not; and the best parameters of each run
      so far, None where none are kept.
    """
    # The state has the same structure for all values.
    traced = {name: values[0] for name, values in group.traced_values().items()}
    initial = initial_train_state(engine.task, engine.optimizer(traced))
    states, diverged = stack([initial(run.seed) for run in group.runs]), np.zeros(len(group.runs), np.int32)
    best = None if group.keep == "none" else no_best_params(states.params)
    step, unfinished = 0, Unfinished()
    checkpoint = checkpoints.restore_last(items_of_runs(states, diverged, best))
    if checkpoint is not None:
        step, items = checkpoint
        _log.info("resuming from the checkpoint of step %d", step)
        state = items["state"]
        states, diverged = from_items(items | {"state": state["states"]}), np.array(state["diverged"])
        best = None if best is None else state["best"].copy()
        unfinished = checkpoints.unfinished(step)
    return Beginning(place_states(engine.mesh, states), step, unfinished), diverged, best
