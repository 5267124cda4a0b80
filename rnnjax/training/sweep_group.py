"""Trains a group of a sweep: runs that share one program."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from rnnjax.config_group import to_dict
from rnnjax.files import is_number
from rnnjax.tasks.task import Task
from rnnjax.training.calls import Programs, TrainingSchedule, train_steps
from rnnjax.training.checkpoint import Checkpoints, Origin, Unfinished
from rnnjax.training.frozen import check_frozen, run_optimizer
from rnnjax.training.grid import Group
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow, steps_in
from rnnjax.training.loop import training_schedule
from rnnjax.training.model_file import shapes
from rnnjax.training.progress import Progress
from rnnjax.training.run_directory import RunDirectory, config_digest
from rnnjax.training.run_programs import (
    RunsProgram,
    first_states,
    padded_runs,
    place_states,
    runs_evaluator,
    runs_feed,
    runs_mesh,
    runs_orders,
    stack,
)
from rnnjax.training.sinks.named import followers
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.state import TrainState, from_items, initial_train_state, require_room
from rnnjax.training.sweep_best import KEPT, BestParams, Ended, items_of_runs, kept, no_best_params, write_run
from rnnjax.training.sweep_record import GroupRecord
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
    schedule = training_schedule(task, group.config)
    optimizer = run_optimizer(group.config, schedule.steps, schedule.epoch_steps)
    require_room(task, optimizer, len(group.runs))
    check_frozen(group.config.frozen, shapes(task))
    programs = compile_programs(task, group, schedule)
    directory.claim(group.as_dict())
    origin = Origin(config_digest(group.as_dict()), task.data.checksum)
    # By the rule alone, so that what was measured on a machine does not change a sweep's results.
    with using(()), Checkpoints(directory.checkpoints, origin) as checkpoints:
        begin = initial_or_restored(task, group, programs.mesh, schedule, checkpoints)
        directory.keep_metrics_until(begin.step, steps_in(begin.unfinished.window))
        with Progress(begin.step, schedule.steps) as progress:
            window = LogWindow(schedule.epoch_steps, group.config.log_every, begin.unfinished.window)
            record = GroupRecord(task, group, directory, progress, checkpoints, begin.diverged, begin.best, window)
            loop_started = time.perf_counter()
            states = train_steps(
                schedule,
                programs,
                begin.states,
                begin.step,
                begin.unfinished,
                record,
                stop,
                group.config.call_seconds,
            )
            step_seconds = time.perf_counter() - loop_started - programs.steps.compile_seconds
        checkpoints.wait()
        test_metrics = programs.evaluate["test"](states.params, stop.of_any_process)
        if test_metrics is not None:
            stop.unless_stopped(lambda: record.write_test(schedule, test_metrics, states.params))
        if stop.signal:
            raise Interrupted(f"stopped by {stop.signal} after the last step of a group, {schedule.steps}")
    times = {
        "seconds": round(time.perf_counter() - started, 3),
        "compile_seconds": round(programs.steps.compile_seconds, 3),
        "steps_per_second": round(len(group.runs) * (schedule.steps - begin.step) / max(step_seconds, 1e-9), 3),
    }
    write_to_sinks(group, directory)
    results = record.results()
    kept_runs = write_kept(record, results, schedule, states.params, times)
    directory.write_summary({"runs": results, "kept": kept_runs, "devices": programs.mesh.size, **times})
    # With its summary a group is complete, and never resumed.
    shutil.rmtree(directory.checkpoints, ignore_errors=True)


def write_to_sinks(group: Group, directory: RunDirectory) -> None:
    """Writes the lines of every run of a group to TensorBoard and the sinks of its config, each as a run of its own.

    When the group is trained, since thousands of runs may be trained at once; before its summary, without which a
    killed sweep does it again.

    Args:
      group: the runs.
      directory: of the group; a run's own is ``sinks/NUMBER`` in it.
    """
    rows: dict[int, list[dict[str, Any]]] = {run.number: [] for run in group.runs}
    for row in directory.metrics():
        rows[row["run"]].append(row)
    for run in group.runs:
        config = to_dict(run.config) | {"sweep": {"run": run.number, "values": run.values}}
        with Sinks(lambda rows: None, followers(group.config.sinks)) as sinks:
            sinks.open(config, directory.path / "sinks" / str(run.number), rows[run.number])


def write_kept(
    record: GroupRecord,
    results: Sequence[Mapping[str, Any]],
    schedule: TrainingSchedule,
    params: Any,
    times: Mapping[str, float],
) -> list[int]:
    """Writes the directories of the runs that are kept; returns their numbers.

    Args:
      record: of the group.
      results: of its runs.
      schedule: of each run.
      params: the parameters of all runs after the last step, each leaf ``[padded, ...]``.
      times: that the group took.
    """
    if record.best is None:
        return []
    rows, chosen = record.rows_by_run(), kept(record.group, record.best, results)
    for index in chosen:
        run = record.group.runs[index]
        last = jax.tree.map(lambda leaf, index=index: np.asarray(np.asarray(leaf)[index]), params)
        best = (int(record.best.step[index]), record.best.of_run(index))
        ended = Ended(run, results[index], rows[run.number], best, (schedule.steps, last), times)
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


def compile_programs(task: Task, group: Group, schedule: TrainingSchedule) -> Programs[RunsProgram]:
    """Returns the programs of a group, which are compiled when they are first called."""
    config, mesh = group.config, runs_mesh(len(group.runs))
    resident = config.data.feed == "device"
    padded = padded_runs(mesh, len(group.runs))
    seeds = [group.runs[number].seed for number in padded]
    traced = {name: values[padded] for name, values in group.traced_values().items()}

    def optimizer(traced: Mapping[str, Any]) -> Any:
        return run_optimizer(config, schedule.steps, schedule.epoch_steps, traced=traced)

    return Programs(
        mesh,
        RunsProgram(task, optimizer, mesh, runs_feed(mesh, task, resident=resident), traced, schedule.call_steps),
        runs_orders(mesh, task, seeds, config.batch_size),
        {
            name: runs_evaluator(
                task,
                mesh,
                name,
                config.batch_size,
                len(padded),
                resident=resident,
                call_seconds=config.call_seconds,
            )
            for name in ("validation", "test")
        },
        first_states(mesh, len(group.runs)),
    )


class Beginning(NamedTuple):
    """What a group begins with.

    Attributes:
      states: of the runs, on the devices.
      diverged: for each run, the step at which it diverged, 0 if it has not.
      best: the best parameters of each run so far; None where none are kept.
      step: number of steps that led to the states.
      unfinished: what the group was doing when it was stopped.
    """

    states: TrainState
    diverged: Int[np.ndarray, " runs"]
    best: BestParams | None
    step: int
    unfinished: Unfinished


def initial_or_restored(
    task: Task, group: Group, mesh: Mesh, schedule: TrainingSchedule, checkpoints: Checkpoints
) -> Beginning:
    """Returns the states to begin with: those of the last checkpoint, or fresh ones if there is none.

    A checkpoint holds the runs without padding, so that training can resume on another number of devices.

    Args:
      task: the task of all runs.
      group: the runs.
      mesh: the devices.
      schedule: of each run.
      checkpoints: of the group.
    """
    # The state has the same structure for all values.
    traced = {name: values[0] for name, values in group.traced_values().items()}
    optimizer = run_optimizer(group.config, schedule.steps, schedule.epoch_steps, traced)
    initial = initial_train_state(task, optimizer)
    states, diverged = stack([initial(run.seed) for run in group.runs]), np.zeros(len(group.runs), np.int32)
    best = None if group.keep == "none" else no_best_params(states.params)
    step, unfinished = 0, Unfinished()
    checkpoint = checkpoints.restore_last(items_of_runs(states, diverged, best))
    if checkpoint is not None:
        step, items = checkpoint
        state = items["state"]
        states, diverged = from_items(items | {"state": state["states"]}), np.array(state["diverged"])
        best = None if best is None else state["best"].copy()
        unfinished = checkpoints.unfinished(step)
        _log.info("resuming from the checkpoint of step %d", step)
    placed = place_states(mesh, states, padded_runs(mesh, len(group.runs)))
    return Beginning(placed, diverged, best, step, unfinished)
