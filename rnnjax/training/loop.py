"""A run from its first step, or its last checkpoint, to its summary."""

from __future__ import annotations

import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rnnjax import plots
from rnnjax.backend import asks_after_each_step
from rnnjax.config import TrainConfig
from rnnjax.config_group import to_dict
from rnnjax.errors import require
from rnnjax.optimizer import build_optimizer
from rnnjax.parallel.distributed import wait_for_all
from rnnjax.parallel.mesh import BATCH, batch_mesh, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.batches import device_feed, epoch_orders, epoch_steps, host_feed, left_out
from rnnjax.training.calls import Plan, Programs, train_steps
from rnnjax.training.checkpoint import Checkpoints, Origin, Unfinished
from rnnjax.training.devices import choose
from rnnjax.training.event_log import EventLog
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow, steps_in
from rnnjax.training.program import TrainProgram, evaluator, place_state, scores
from rnnjax.training.progress import Progress
from rnnjax.training.record import Record, means
from rnnjax.training.run_directory import RunDirectory, config_digest
from rnnjax.training.state import TrainState, initial_train_state, require_room
from rnnjax.training.summary import summarise
from rnnjax.unrolling.auto import using

_log = logging.getLogger(__name__)


_MOST_STEPS = 2**31  # they are counted in 32 bits


def train(task: Task, config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """Trains, or resumes from the run's last checkpoint; returns the summary, which it also writes.

    Of several processes the one that writes has the summary, the others nothing.

    Raises:
      ConfigError: if the config cannot be run on this data and these devices.
      CheckpointError: if checkpoints cannot be written or read.
      TrainingError: if the loss is no longer finite.
      Interrupted: if a signal stopped it, after a checkpoint.
    """
    with StopRequest() as stop:
        return _train(task, config, run, stop)


def _train(task: Task, config: TrainConfig, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    started = time.perf_counter()
    plan = make_plan(task, config)
    optimizer = build_optimizer(config.optimizer, plan.steps, plan.epoch_steps)
    require_room(task, optimizer)
    choice = choose(task, config, optimizer, plan.steps, run, stop)
    programs = compile_programs(task, config, optimizer, choice.devices)
    run.claim(to_dict(config))
    run.write_choice(choice)
    say_what_does_not_divide(task, config.batch_size, programs.mesh)
    with using(choice.methods), open_checkpoints(run, task, to_dict(config)) as checkpoints:
        state, begin, unfinished = initial_or_restored(task, optimizer, config, programs.mesh, checkpoints)
        run.keep_metrics_until(begin, steps_in(unfinished.window), evaluated=bool(checkpoints.metrics(begin)))
        with (
            EventLog(run.tensorboard, run.metrics() if begin else [], writes=run.writes) as events,
            Progress(begin, plan.steps, shown=run.writes) as progress,
        ):
            first_step = time.perf_counter()
            window = LogWindow(plan.epoch_steps, config.log_every, unfinished.window)
            record = Record(task, run, events, progress, checkpoints, config.log_every, window)
            state = train_steps(plan, programs, state, begin, unfinished, record, stop, config.call_seconds)
            step_seconds = time.perf_counter() - first_step - programs.steps.compile_seconds
            checkpoints.wait()
            test_at_the_end(plan, programs, state, record, stop)
    if not run.writes:
        return {}
    summary = summarise(
        task,
        run.metrics(),
        programs.mesh,
        seconds=time.perf_counter() - started,
        seconds_to_first_step=max(programs.steps.ready - started, 0.0),  # 0: no step was left to take
        steps_per_second=(plan.steps - begin) / max(step_seconds, 1e-9),
        compile_seconds=programs.steps.compile_seconds,
        input_wait=programs.steps.input_seconds / max(step_seconds, 1e-9),
    )
    run.write_summary(summary)
    return summary


def test_at_the_end(plan: Plan, programs: Programs[Any], state: TrainState, record: Record, stop: StopRequest) -> None:
    """Writes the metrics of the test split, the task's own scores with them, and the pictures of the run.

    Raises:
      Interrupted: if a signal stopped it; all of it is done again then.
    """
    found = programs.evaluate["test"](state.params, stop.of_any_process)

    def finish() -> None:
        test = record.task.complete(means(found)) | scores(record.task, state.params, "test")
        rows = [{"step": plan.steps, "epoch": plan.epochs, "split": "test", **test}]
        record.add(rows)
        plots.plot_curves(record.run.metrics(), record.run.plots)
        if record.task.plots is not None:
            record.task.plots(jax.device_get(state.params), record.run.plots)

    if found is not None and record.run.writes:
        stop.unless_stopped(finish)
    wait_for_all("scored")  # what takes one of them long would be too long for the checkpoints' own waiting
    stopped = stop.of_any_process()
    if stopped:
        raise Interrupted(f"stopped by {stopped} after the last step, {plan.steps}, and its checkpoint")


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


def compile_programs(task: Task, config: TrainConfig, optimizer: Any, devices: int) -> Programs[TrainProgram]:
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
    options = {"resident": resident, "via": via, "call_seconds": config.call_seconds}
    most = make_plan(task, config).call_steps
    return Programs(
        mesh,
        TrainProgram(task, optimizer, mesh, feed, size, via, most=most, known=knows_counts(config)),
        epoch_orders(mesh, task, config.seed, size),
        {name: evaluator(task, mesh, name, size, **options) for name in ("validation", "test")},
        lambda state: jax.tree.map(jnp.copy, state),
    )


def knows_counts(config: TrainConfig) -> bool:
    """Says whether a program is compiled for its number of steps: a GPU then need not ask after each whether to go on.

    That is where calls are not bounded in time, and have one number or two in a run. On a CPU it makes no difference.
    """
    return config.call_seconds == 0 and asks_after_each_step()


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
) -> tuple[TrainState, int, Unfinished]:
    """Returns the state of the last checkpoint, or a fresh one where there is none, its step and what is unfinished."""
    state = place_state(mesh, initial_train_state(task, optimizer)(config.seed))
    found = checkpoints.restore_last(state)
    if found is None:
        return state, 0, Unfinished()
    step, state = found
    _log.info("resuming from the checkpoint of step %d", step)
    return state, step, checkpoints.unfinished(step)
