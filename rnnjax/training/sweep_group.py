"""A group of a sweep: its runs trained by one program, and what is written down of them."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from rnnjax.files import is_number
from rnnjax.optimizer import build_optimizer
from rnnjax.tasks.task import Task
from rnnjax.training.calls import Plan, Programs, train_steps
from rnnjax.training.checkpoint import Checkpoints, Origin, Unfinished
from rnnjax.training.grid import Group
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow, Metrics, steps_in
from rnnjax.training.loop import make_plan
from rnnjax.training.program import scores
from rnnjax.training.progress import Progress
from rnnjax.training.record import Finished, finite_steps, means, training_rows
from rnnjax.training.run_directory import RunDirectory, config_digest
from rnnjax.training.run_programs import (
    RunsProgram,
    filled,
    first_states,
    place_states,
    runs_evaluator,
    runs_feed,
    runs_mesh,
    runs_orders,
    stack,
)
from rnnjax.training.state import TrainState, initial_train_state, require_room
from rnnjax.training.summary import best_metrics, last_metrics
from rnnjax.unrolling.auto import using

_log = logging.getLogger(__name__)


def train_group(group: Group, task: Task, directory: RunDirectory, stop: StopRequest) -> None:
    """Trains the runs of a group, or resumes from their last checkpoint, and writes metrics and summary.

    Raises:
      CheckpointError: if checkpoints cannot be written or read.
      Interrupted: if a signal stopped it, after a checkpoint.
    """
    if stop.signal:
        raise Interrupted(f"stopped by {stop.signal} between two groups")
    started = time.perf_counter()
    plan = make_plan(task, group.config)
    require_room(task, build_optimizer(group.config.optimizer, plan.steps, plan.epoch_steps), len(group.runs))
    programs = compile_programs(task, group, plan)
    directory.claim(group.as_dict())
    origin = Origin(config_digest(group.as_dict()), task.data.checksum)
    with using(()), Checkpoints(directory.checkpoints, origin) as checkpoints:
        states, diverged, begin, unfinished = initial_or_restored(task, group, programs.mesh, plan, checkpoints)
        directory.keep_metrics_until(begin, steps_in(unfinished.window))
        with Progress(begin, plan.steps) as progress:
            window = LogWindow(plan.epoch_steps, group.config.log_every, unfinished.window)
            record = GroupRecord(task, group, directory, progress, checkpoints, diverged, window)
            first_step = time.perf_counter()
            seconds = group.config.call_seconds
            states = train_steps(plan, programs, states, begin, unfinished, record, stop, seconds)
            step_seconds = time.perf_counter() - first_step - programs.steps.compile_seconds
        checkpoints.wait()
        found = programs.evaluate["test"](states.params, stop.of_any_process)
        if found is not None:
            stop.unless_stopped(lambda: record.test(plan, found, states.params))
        if stop.signal:
            raise Interrupted(f"stopped by {stop.signal} after the last step of a group, {plan.steps}")
    seconds = {
        "seconds": round(time.perf_counter() - started, 3),
        "compile_seconds": round(programs.steps.compile_seconds, 3),
        "steps_per_second": round(len(group.runs) * (plan.steps - begin) / max(step_seconds, 1e-9), 3),
    }
    directory.write_summary({"runs": record.results(), "devices": programs.mesh.size, **seconds})
    shutil.rmtree(directory.checkpoints, ignore_errors=True)


def is_group_summary(value: Any) -> bool:
    """Says whether a value out of a JSON file is a summary as `train_group` writes it."""
    if not isinstance(value, dict) or not all(is_number(value.get(name)) for name in ("devices", *_TIMES)):
        return False
    runs = value.get("runs")
    return isinstance(runs, list) and all(isinstance(run, dict) and run.keys() == _IN_A_RUN for run in runs)


_TIMES = ("seconds", "compile_seconds", "steps_per_second")
_IN_A_RUN = {"run", "seed", "values", "diverged", "final", "best"}


def compile_programs(task: Task, group: Group, plan: Plan) -> Programs[RunsProgram]:
    """Returns the programs of a group, which are compiled when they are first called."""
    config, mesh, resident = group.config, runs_mesh(len(group.runs)), group.config.data.feed == "device"
    rows = filled(mesh, len(group.runs))
    seeds = [group.runs[row].seed for row in rows]
    traced = {name: values[rows] for name, values in group.traced_values().items()}

    def optimizer(traced: Mapping[str, Any]) -> Any:
        return build_optimizer(config.optimizer, plan.steps, plan.epoch_steps, traced=traced)

    return Programs(
        mesh,
        RunsProgram(task, optimizer, mesh, runs_feed(mesh, task, resident=resident), traced, plan.call_steps),
        runs_orders(mesh, task, seeds, config.batch_size),
        {
            name: runs_evaluator(
                task,
                mesh,
                name,
                config.batch_size,
                len(rows),
                resident=resident,
                call_seconds=config.call_seconds,
            )
            for name in ("validation", "test")
        },
        first_states(mesh, len(group.runs)),
    )


def initial_or_restored(
    task: Task, group: Group, mesh: Mesh, plan: Plan, checkpoints: Checkpoints
) -> tuple[TrainState, np.ndarray, int, Unfinished]:
    """Returns the states of the last checkpoint, or fresh ones where there is none; where each run diverged; the step;
    what is unfinished.

    A checkpoint holds the runs without those that fill up the devices, so it can be resumed on other devices.
    """
    traced = {name: values[0] for name, values in group.traced_values().items()}  # the state is alike for all values
    optimizer = build_optimizer(group.config.optimizer, plan.steps, plan.epoch_steps, traced)
    initial = initial_train_state(task, optimizer)
    states = stack([initial(run.seed) for run in group.runs])
    kept, begin, unfinished = {"states": states, "diverged": np.zeros(len(group.runs), np.int32)}, 0, Unfinished()
    found = checkpoints.restore_last(kept)
    if found is not None:
        begin, kept = found
        unfinished = checkpoints.unfinished(begin)
        _log.info("resuming from the checkpoint of step %d", begin)
    states = place_states(mesh, kept["states"], filled(mesh, len(group.runs)))
    return states, np.array(kept["diverged"]), begin, unfinished


class GroupRecord(NamedTuple):
    """The places where a group is written down; `diverged` has the step at which a run's loss was first no number.

    From the line on in which that step is, nothing is written of the run; the others go on.
    """

    task: Task
    group: Group
    directory: RunDirectory
    progress: Progress
    checkpoints: Checkpoints
    diverged: np.ndarray
    window: LogWindow

    def write(self, finished: Finished) -> None:
        """Writes the metrics of all runs, progress and, at the end of an epoch, a checkpoint."""
        metrics = {name: values[: len(self.diverged)] for name, values in finished.on_host().items()}
        self._note_divergence(metrics, finished)
        closed, step = self.window.closed(metrics, finished.step) if metrics else ({}, finished.step)
        rows = [row for place in range(len(self.diverged)) for row in self._rows(place, closed, step, finished)]
        # Not run by run, which would show where calls end.
        self.directory.append_metrics(sorted(rows, key=lambda row: (row["step"], row["split"] == "validation")))
        shown = self._shown()
        if metrics:
            mean = {name: values[shown].mean(0) for name, values in metrics.items()}
            self.progress.advance(finished.step, means({name: value[-1] for name, value in mean.items()}), mean)
        if finished.validation is not None:
            validation = _on_host(finished.validation)
            of_epoch = means({name: values[shown] for name, values in validation.items()})
            self.progress.epoch(finished.epoch, self.task.complete(of_epoch))
        if finished.state is not None:
            self.save(finished.step, finished.state)

    def _note_divergence(self, metrics: Metrics, finished: Finished) -> None:
        """Notes the runs whose loss was no number first in a call, or in the evaluation after it."""
        for place in range(len(self.diverged)):
            if metrics:
                self._note_first(place, metrics["loss"][place], finished.step)
            if finished.validation is not None:
                self._note_first(place, _on_host(finished.validation)["loss"][place : place + 1], finished.step)

    def _note_first(self, place: int, losses: np.ndarray, step: int) -> None:
        fine = finite_steps(losses)
        if fine < len(losses) and not self.diverged[place]:
            self.diverged[place] = step - len(losses) + fine + 1
            run = self.group.runs[place]
            _log.warning("run %d (seed %d) diverged at step %d", run.number, run.seed, self.diverged[place])

    def _rows(self, place: int, closed: Metrics, step: int, finished: Finished) -> Iterator[dict[str, Any]]:
        """Yields the lines of one run, up to the one in which its loss is no number."""
        run, config = self.group.runs[place], self.group.config
        own = {name: values[place] for name, values in closed.items()}
        rows = [self.task.complete(row) for row in training_rows(own, step, finished.epoch, config.log_every)]
        if finished.validation is not None:
            about = {"step": finished.step, "epoch": finished.epoch, "split": "validation"}
            rows.append(about | self.task.complete(_of_run(finished.validation, place)))
        for row in rows:
            if not self.diverged[place] or row["step"] < self.diverged[place]:
                yield {"run": run.number, **row}

    def _shown(self) -> np.ndarray:
        """Returns the runs that a mean is taken over: those that have not diverged, or all where all have."""
        fine = np.flatnonzero(self.diverged == 0)
        return fine if fine.size else np.arange(len(self.diverged))

    def save(self, step: int, states: TrainState) -> None:
        """Writes a checkpoint."""
        self.checkpoints.save(step, {"states": states, "diverged": self.diverged.copy()}, {})

    def save_unfinished(self, step: int, states: TrainState, *, evaluation: bool) -> None:
        """Writes a checkpoint to resume from; returns when it is there. `evaluation`: the validation is to follow."""
        kept = {"states": states, "diverged": self.diverged.copy()}
        self.checkpoints.save(step, kept, {}, Unfinished(self.window.as_json(), evaluation))
        self.checkpoints.wait()

    def test(self, plan: Plan, found: Mapping[str, Array], params: Any) -> None:
        """Writes the metrics of the test split, the task's own scores with them."""
        for place, run in enumerate(self.group.runs):
            if self.diverged[place]:
                continue
            own = {} if self.task.score is None else jax.tree.map(lambda leaf, place=place: leaf[place], params)
            test = self.task.complete(_of_run(found, place)) | scores(self.task, own, "test")
            row = {"run": run.number, "step": plan.steps, "epoch": plan.epochs, "split": "test", **test}
            self.directory.append_metrics([row])

    def results(self) -> list[dict[str, Any]]:
        """Returns what came out of every run, as a run's own summary has it."""
        rows: dict[int, list[dict[str, Any]]] = {run.number: [] for run in self.group.runs}
        for row in self.directory.metrics():
            rows[row.pop("run")].append(row)
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


def _of_run(metrics: Mapping[str, Array], place: int) -> dict[str, float]:
    return {name: float(values[place]) for name, values in _on_host(metrics).items()}
