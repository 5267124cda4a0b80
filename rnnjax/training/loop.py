"""The training loop: compiled calls one after the other, and what is written down between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from rnnjax import plots
from rnnjax.config import TrainConfig
from rnnjax.config_group import to_dict
from rnnjax.errors import require
from rnnjax.optimizer import build_optimizer
from rnnjax.parallel.distributed import wait_for_all
from rnnjax.parallel.mesh import BATCH, batch_mesh, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.batches import Order, device_feed, epoch_orders, epoch_steps, host_feed, left_out
from rnnjax.training.checkpoint import Checkpoints, Origin
from rnnjax.training.devices import choose_devices
from rnnjax.training.event_log import EventLog
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.program import TrainProgram, evaluator, place_state, scores
from rnnjax.training.progress import Progress
from rnnjax.training.record import Finished, Record, means
from rnnjax.training.run_directory import RunDirectory, config_digest
from rnnjax.training.state import TrainState, initial_train_state, require_room
from rnnjax.training.summary import summarise

_log = logging.getLogger(__name__)


_MOST_STEPS = 2**31  # they are counted in 32 bits


class Plan(NamedTuple):
    """A run's shape: steps in an epoch, epochs, steps in a call (the last call of an epoch may have fewer), and the
    epochs between evaluations."""

    epoch_steps: int
    epochs: int
    call_steps: int
    evaluate_every: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epoch_steps * self.epochs

    def evaluates_after(self, epoch: int, step: int) -> bool:
        """Says whether the validation split is evaluated after a call of an epoch that ends at a step of it."""
        due = (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs
        return due and step == self.epoch_steps

    def calls(self, step: int) -> Iterator[tuple[int, int, int]]:
        """Yields ``(epoch, first, count)`` of every call from a step on: the same calls whenever a run stopped."""
        for epoch in range(step // self.epoch_steps, self.epochs):
            begin = step % self.epoch_steps if epoch == step // self.epoch_steps else 0
            for first in range(begin, self.epoch_steps, self.call_steps):
                yield epoch, first, min(self.call_steps, self.epoch_steps - first)


class Programs(NamedTuple):
    """What a run computes with."""

    mesh: Mesh
    steps: TrainProgram
    order: Callable[[int], Order]
    evaluate: dict[str, Callable[[Any], dict[str, Array]]]


def train(task: Task, config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """Trains, or goes on from the run's last checkpoint; returns the summary, which it also writes.

    Of several processes the one that writes has the summary, the others nothing.

    Raises:
      ConfigError: if the config cannot be run on this data and these devices.
      CheckpointError: if checkpoints cannot be written or read.
      TrainingError: if the loss is no longer finite.
      Interrupted: if a signal stopped it, after a checkpoint.
    """
    started = time.perf_counter()
    plan = make_plan(task, config)
    optimizer = build_optimizer(config.optimizer, plan.steps, plan.epoch_steps)
    require_room(task, optimizer)
    devices = choose_devices(task, config, optimizer, plan.steps, run)
    programs = compile_programs(task, config, optimizer, devices)
    run.claim(to_dict(config))
    run.write_devices(devices)
    say_what_does_not_divide(task, config.batch_size, programs.mesh)
    with open_checkpoints(run, task, to_dict(config)) as checkpoints:
        state, begin = initial_or_restored(task, optimizer, config, programs.mesh, checkpoints)
        run.keep_metrics_until(begin, evaluated=bool(checkpoints.metrics(begin)))
        with (
            EventLog(run.tensorboard, run.metrics() if begin else [], writes=run.writes) as events,
            Progress(begin, plan.steps, shown=run.writes) as progress,
        ):
            first_step = time.perf_counter()
            state = train_steps(
                plan, programs, state, begin, Record(task, run, events, progress, checkpoints, config.log_every)
            )
            step_seconds = time.perf_counter() - first_step - programs.steps.compile_seconds
            test = task.complete(means(programs.evaluate["test"](state.params)))
            if run.writes:
                test |= scores(task, state.params, "test")
            rows = [{"step": plan.steps, "epoch": plan.epochs, "split": "test", **test}]
            run.append_metrics(rows)
            events.write(rows)
            wait_for_all("scored")  # what takes one of them long would be too long for the checkpoints' own waiting
    if not run.writes:
        return {}
    rows = run.metrics()
    plots.plot_curves(rows, run.plots)
    if task.plots is not None:
        task.plots(jax.device_get(state.params), run.plots)
    summary = summarise(
        task,
        rows,
        programs.mesh,
        seconds=time.perf_counter() - started,
        seconds_to_first_step=max(programs.steps.ready - started, 0.0),  # 0: no step was left to take
        steps_per_second=(plan.steps - begin) / max(step_seconds, 1e-9),
        compile_seconds=programs.steps.compile_seconds,
        input_wait=programs.steps.input_seconds / max(step_seconds, 1e-9),
    )
    run.write_summary(summary)
    return summary


def open_checkpoints(run: RunDirectory, task: Task, config: dict[str, Any], *, read_only: bool = False) -> Checkpoints:
    """Returns the checkpoints of a run of a config, to be entered; the best is by the task's metric."""
    origin = Origin(config_digest(config), task.data.checksum)
    better = task.higher_is_better
    return Checkpoints(run.checkpoints, origin, metric=task.best_metric, higher_is_better=better, read_only=read_only)


def make_plan(task: Task, config: TrainConfig) -> Plan:
    """Returns the shape of the run.

    Raises:
      ConfigError: if there are fewer examples than one batch takes, or more steps than can be counted.
    """
    steps = epoch_steps(task, config.batch_size)
    require(
        steps * config.epochs < _MOST_STEPS,
        f"a run has at most {_MOST_STEPS - 1} steps, and {config.epochs} epochs of {steps} are more; lower epochs",
    )
    return Plan(steps, config.epochs, min(config.steps_per_call or steps, steps), config.evaluate_every)


def compile_programs(task: Task, config: TrainConfig, optimizer: Any, devices: int) -> Programs:
    """Returns the programs of the run on so many devices, which are compiled when they are first called."""
    size, via = config.batch_size, config.parallel.via
    mesh = batch_mesh(str(devices), size, config.parallel.layers)
    require(
        task.carry is None or filled_batch(mesh, size) == size,
        f"batch_size {size} does not divide over {mesh.shape[BATCH]} devices, which this task needs because it carries "
        "state from batch to batch; choose a multiple, or another parallel.batch",
    )
    resident = config.data.feed == "device"
    feed = (device_feed if resident else host_feed)(mesh, task.data.splits["train"])
    return Programs(
        mesh,
        TrainProgram(task, optimizer, mesh, feed, size, via),
        epoch_orders(mesh, task, config.seed, size),
        {name: evaluator(task, mesh, name, size, resident=resident, via=via) for name in ("validation", "test")},
    )


def say_what_does_not_divide(task: Task, batch_size: int, mesh: Mesh) -> None:
    """Logs how many examples each epoch leaves out, and how batches are filled up for the devices."""
    count, filled = left_out(task, batch_size), filled_batch(mesh, batch_size)
    if count:
        which = "the same" if task.ordered else "others"
        _log.info(
            "each epoch leaves out %d of %d training examples, %s every time, that are too few for a batch of %d",
            count,
            task.examples("train"),
            which,
            batch_size,
        )
    if filled != batch_size:
        _log.info(
            "batches of %d are filled up to %d with examples of weight zero, to divide over %d devices",
            batch_size,
            filled,
            mesh.shape[BATCH],
        )


def initial_or_restored(
    task: Task, optimizer: Any, config: TrainConfig, mesh: Mesh, checkpoints: Checkpoints
) -> tuple[TrainState, int]:
    """Returns the state of the last checkpoint, or a fresh one where there is none, and its step."""
    state = place_state(mesh, initial_train_state(task, optimizer)(config.seed))
    found = checkpoints.restore_last(state)
    if found is None:
        return state, 0
    step, state = found
    _log.info("going on from the checkpoint of step %d", step)
    return state, step


def train_steps(plan: Plan, programs: Programs, state: TrainState, begin: int, record: Record) -> TrainState:
    """Takes the steps from `begin` to the end of the run, and has what comes back written down one call late.

    While the devices work on a call, the host logs the one before it and writes its checkpoint.
    """
    step, before, stopped = begin, None, None
    with StopRequest() as stop:
        for epoch, first, count in plan.calls(begin):
            state, metrics = programs.steps(state, programs.order(epoch).part(first, count))
            step += count
            validation = kept = None
            if plan.evaluates_after(epoch, first + count):
                validation = programs.evaluate["validation"](state.params)
                kept = jax.tree.map(jnp.copy, state)  # the next call takes the state's memory for its own
            if before is not None:
                record.write(before)
            before = Finished(epoch + 1, step, metrics, validation, kept)
            stopped = stop.of_any_process()
            if stopped:
                break
        if before is not None:
            record.write(before)
        if step < plan.steps:
            record.checkpoints.save(step, state, {})
            record.checkpoints.wait()
            raise Interrupted(f"stopped by {stopped} at step {step} of {plan.steps}, after a checkpoint")
    return state
