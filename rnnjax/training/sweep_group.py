"""Trains a group of a sweep: runs that share one program, and records each of them."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rnnjax.files import is_number
from rnnjax.tasks.task import Task
from rnnjax.training.calls import Programs, TrainingSchedule, train_steps
from rnnjax.training.checkpoint import Checkpoints, Origin, Unfinished
from rnnjax.training.frozen import check_frozen, run_optimizer
from rnnjax.training.grid import Group
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow, Metrics, steps_in
from rnnjax.training.loop import training_schedule
from rnnjax.training.model_file import shapes
from rnnjax.training.progress import Progress
from rnnjax.training.record import CallResults, finite_steps, means, training_rows
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
from rnnjax.training.split_evaluation import scores
from rnnjax.training.state import TrainState, from_items, initial_train_state, require_room
from rnnjax.training.summary import best_metrics, last_metrics
from rnnjax.training.sweep_best import KEPT, BestParams, Ended, items_of_runs, kept, no_best_params, score_of, write_run
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
    results = record.results()
    kept_runs = write_kept(record, results, schedule, states.params, times)
    directory.write_summary({"runs": results, "kept": kept_runs, "devices": programs.mesh.size, **times})
    # With its summary a group is complete, and never resumed.
    shutil.rmtree(directory.checkpoints, ignore_errors=True)


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


class GroupRecord(NamedTuple):
    """Records a group of runs in its directory, as progress, and as checkpoints.

    A run whose loss is not finite has diverged: from the line that covers this step on, no line of it is written,
    while the other runs continue.

    Attributes:
      task: the task of all runs.
      group: the runs.
      directory: of the group.
      progress: the progress bar.
      checkpoints: of the group.
      diverged: for each run, the first step whose loss is not finite, 0 if there is none.
      best: the best parameters of each run so far; None where none are kept.
      window: the training steps whose line is not complete yet.
    """

    task: Task
    group: Group
    directory: RunDirectory
    progress: Progress
    checkpoints: Checkpoints
    diverged: Int[np.ndarray, " runs"]
    best: BestParams | None
    window: LogWindow

    def write(self, results: CallResults) -> None:
        """Writes the metrics of all runs, progress and, at the end of an epoch, a checkpoint."""
        runs = range(len(self.diverged))
        metrics = {name: values[: len(runs)] for name, values in results.on_host().items()}  # without padding
        # First, since it decides which lines are written below.
        self._note_divergence(metrics, results)
        lines, step = self.window.take_complete(metrics, results.step) if metrics else ({}, results.step)
        rows = [row for index in runs for row in self._rows(index, lines, step, results)]
        # By step, not by run: the order of lines must not depend on where calls end.
        self.directory.append_metrics(sorted(rows, key=lambda row: (row["step"], row["split"] == "validation")))
        self._show_progress(metrics, results)
        if results.state is not None:
            self._note_best(results)
            self.save(results.step, results.state)

    def _note_best(self, results: CallResults) -> None:
        """Takes the parameters of the runs that an evaluation has found better than ever."""
        if self.best is None or results.validation is None:
            return
        rows = [self.task.complete(_of_run(results.validation, index)) for index in range(len(self.diverged))]
        scores = np.array([score_of(self.task, row) for row in rows], np.float32)
        self.best.note(np.where(self.diverged == 0, scores, -np.inf), results.step, results.state.params)

    def _show_progress(self, metrics: Metrics, results: CallResults) -> None:
        shown = self._shown_runs()
        if metrics:
            mean = {name: values[shown].mean(0) for name, values in metrics.items()}
            last = {name: values[-1] for name, values in mean.items()}
            self.progress.advance(results.step, means(last), mean)
        if results.validation is not None:
            validation = {name: values[shown] for name, values in _on_host(results.validation).items()}
            self.progress.epoch(results.epoch, self.task.complete(means(validation)))

    def _note_divergence(self, metrics: Metrics, results: CallResults) -> None:
        """Notes the runs whose loss was not finite in a call, or in the evaluation after it."""
        for index in range(len(self.diverged)):
            if metrics:
                self._note_first(index, metrics["loss"][index], results.step)
            if results.validation is not None:
                losses = _on_host(results.validation)["loss"]
                self._note_first(index, losses[index : index + 1], results.step)

    def _note_first(self, index: int, losses: np.ndarray, step: int) -> None:
        finite = finite_steps(losses)
        if finite < len(losses) and not self.diverged[index]:
            # Steps count from 1, and `step` is that of the last loss.
            self.diverged[index] = step - len(losses) + finite + 1
            run = self.group.runs[index]
            _log.warning("run %d (seed %d) diverged at step %d", run.number, run.seed, self.diverged[index])

    def _rows(self, index: int, lines: Metrics, step: int, results: CallResults) -> Iterator[dict[str, Any]]:
        """Yields the lines of one run, up to the step at which it diverged."""
        run, config = self.group.runs[index], self.group.config
        metrics = {name: values[index] for name, values in lines.items()}
        rows = [self.task.complete(row) for row in training_rows(metrics, step, results.epoch, config.log_every)]
        if results.validation is not None:
            about = {"step": results.step, "epoch": results.epoch, "split": "validation"}
            rows.append(about | self.task.complete(_of_run(results.validation, index)))
        for row in rows:
            if not self.diverged[index] or row["step"] < self.diverged[index]:
                yield {"run": run.number, **row}

    def _shown_runs(self) -> np.ndarray:
        """Returns the runs whose mean progress shows: those that have not diverged, or all if all have."""
        finite = np.flatnonzero(self.diverged == 0)
        return finite if finite.size else np.arange(len(self.diverged))

    def save(self, step: int, states: TrainState) -> None:
        """Writes a checkpoint."""
        self.checkpoints.save(step, items_of_runs(states, self.diverged, self.best), {})

    def save_unfinished(self, step: int, states: TrainState, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is complete.

        Args:
          step: steps of each run so far.
          states: after them.
          evaluation: whether the validation split is still to be evaluated after this step.
        """
        items = items_of_runs(states, self.diverged, self.best)
        self.checkpoints.save(step, items, {}, Unfinished(self.window.as_json(), evaluation))
        self.checkpoints.wait()

    def write_test(
        self, schedule: TrainingSchedule, metrics: Mapping[str, Float[Array, " padded"]], params: Any
    ) -> None:
        """Writes the metrics of the test split, with the task's own scores.

        Args:
          schedule: of each run.
          metrics: of the test split, of each run and of the padding.
          params: the parameters of all runs, each leaf ``[padded, ...]``.
        """
        about = {"step": schedule.steps, "epoch": schedule.epochs, "split": "test"}
        for index, run in enumerate(self.group.runs):
            if self.diverged[index]:
                continue
            test = self.task.complete(_of_run(metrics, index))
            if self.task.score is not None:
                # The padding is behind the runs, so that a run's number is its row.
                params_of_run = jax.tree.map(lambda leaf, index=index: leaf[index], params)
                test |= scores(self.task, params_of_run, "test")
            self.directory.append_metrics([{"run": run.number, **about, **test}])

    def rows_by_run(self) -> dict[int, list[dict[str, Any]]]:
        """Returns the lines of every run, by its number."""
        rows: dict[int, list[dict[str, Any]]] = {run.number: [] for run in self.group.runs}
        for row in self.directory.metrics():
            rows[row.pop("run")].append(row)
        return rows

    def results(self) -> list[dict[str, Any]]:
        """Returns the results of every run, in the form of a run's own summary."""
        rows = self.rows_by_run()
        return [
            {
                "run": run.number,
                "seed": run.seed,
                "values": run.values,
                "diverged": int(step) or None,
                "final": {split: last_metrics(rows[run.number], split) for split in _splits(rows[run.number])},
                "best": best_metrics(rows[run.number], self.task),
            }
            for run, step in zip(self.group.runs, self.diverged)
        ]


def _splits(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["split"] for row in rows))


def _on_host(metrics: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in metrics.items()}


def _of_run(metrics: Mapping[str, Array], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in _on_host(metrics).items()}
