"""Trains a group of a sweep: runs that share one program."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from rnnjax.config_group import to_dict
from rnnjax.files import is_number
from rnnjax.parallel.mesh import RUNS, padded_runs
from rnnjax.tasks.task import Task
from rnnjax.training.calls import Beginning, train_and_test
from rnnjax.training.directory.checkpoint import Checkpoints, Origin, Unfinished
from rnnjax.training.directory.run_directory import RunDirectory, config_digest
from rnnjax.training.engine import Engine, Runs, TrainingSchedule, plan
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow, steps_in
from rnnjax.training.progress import Progress
from rnnjax.training.sinks.named import followers
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.state import from_items, initial_train_state, place_states, stack
from rnnjax.training.sweeps.best import KEPT, BestParams, Ended, items_of_runs, kept, no_best_params, write_run
from rnnjax.training.sweeps.grid import Group
from rnnjax.training.sweeps.group_record import GroupRecord, RowsByRun
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
    schedule = plan(task, config, len(group.runs))
    engine = Engine(task, config, group.mesh(), runs)
    directory.claim(group.as_dict())
    origin = Origin(config_digest(group.as_dict()), task.data.checksum)
    # By the rule alone, so that what was measured on a machine does not change a sweep's results.
    with using(()), Checkpoints(directory.checkpoints, origin) as checkpoints:
        begin, diverged, best = initial_or_restored(engine, group, checkpoints)
        directory.keep_metrics_until(begin.step, steps_in(begin.unfinished.window))
        with Progress(begin.step, schedule.steps) as progress:
            window = LogWindow(schedule.epoch_steps, config.log_every, begin.unfinished.window)
            record = GroupRecord(task, progress, checkpoints, window, diverged, group, directory, best)
            trained = train_and_test(engine, begin, record, stop)
    times = {
        "seconds": round(time.perf_counter() - started, 3),
        "compile_seconds": round(engine.steps.compile_seconds, 3),
        "steps_per_second": round(len(group.runs) * (schedule.steps - begin.step) / max(trained.step_seconds, 1e-9), 3),
    }
    rows = record.rows_by_run()
    write_to_sinks(group, directory, rows)
    results = record.results(rows)
    kept_runs = write_kept(
        record, rows, results, schedule, trained.states.params, times, engine.mesh.size // engine.mesh.shape[RUNS]
    )
    directory.write_summary({"runs": results, "kept": kept_runs, "devices": engine.mesh.size, **times})
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
    record: GroupRecord,
    rows: RowsByRun,
    results: Sequence[Mapping[str, Any]],
    schedule: TrainingSchedule,
    params: Any,
    times: Mapping[str, float],
    devices: int,
) -> list[int]:
    """Writes the directories of the runs that are kept; returns their numbers.

    Args:
      record: of the group.
      rows: the lines of every run.
      results: of its runs.
      schedule: of each run.
      params: the parameters of all runs after the last step, each leaf ``[padded, ...]``.
      times: that the group took.
      devices: that each run was computed on.
    """
    if record.best is None:
        return []
    chosen = kept(record.group, record.best, results)
    for index in chosen:
        run = record.group.runs[index]
        last = jax.tree.map(lambda leaf, index=index: np.asarray(np.asarray(leaf)[index]), params)
        best = (int(record.best.step[index]), record.best.of_run(index))
        ended = Ended(run, results[index], rows[run.number], best, (schedule.steps, last), times, devices)
        write_run(record.task, ended, RunDirectory(record.directory.path / KEPT / str(run.number)))
    return [record.group.runs[index].number for index in chosen]


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
    placed = place_states(engine.mesh, states, padded_runs(engine.mesh, len(group.runs)))
    return Beginning(placed, step, unfinished), diverged, best
