"""A run from its first step, or its last checkpoint, to its summary."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rnnjax.backend import asks_after_each_step
from rnnjax.config import TrainConfig
from rnnjax.config_group import to_dict
from rnnjax.errors import require
from rnnjax.parallel.distributed import wait_for_all
from rnnjax.parallel.mesh import BATCH, batch_mesh, filled_batch
from rnnjax.plots import plot_curves
from rnnjax.tasks.task import Task
from rnnjax.training.batches import device_feed, epoch_orders, epoch_steps, host_feed, left_out
from rnnjax.training.calls import Programs, TrainingSchedule, train_steps
from rnnjax.training.checkpoint import Checkpoints, Origin, Unfinished
from rnnjax.training.choice import Choice
from rnnjax.training.devices import choose
from rnnjax.training.frozen import check_frozen, run_optimizer
from rnnjax.training.histograms import histograms_until
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.log_window import LogWindow, steps_in
from rnnjax.training.model_file import model_file, shapes
from rnnjax.training.program import TrainProgram, place_state
from rnnjax.training.progress import Progress
from rnnjax.training.record import Record, means
from rnnjax.training.run_directory import RunDirectory, config_digest
from rnnjax.training.sinks.named import followers
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.split_evaluation import evaluator
from rnnjax.training.state import TrainState, as_items, from_items, initial_train_state, require_room
from rnnjax.training.summary import summarise
from rnnjax.unrolling.auto import using

_log = logging.getLogger(__name__)

_MOST_STEPS = 2**31  # steps are counted in 32 bits


class Ancestor(Protocol):
    """Another run, with which one begins."""

    def check(self, task: Task, config: TrainConfig, /) -> None:
        """Raises an error of one sentence if a run cannot begin with it."""
        ...

    def choice(self) -> Choice | None:
        """Returns the devices and methods to begin with; None to choose them."""
        ...

    def begin(
        self, task: Task, config: TrainConfig, mesh: Mesh, state: TrainState, run: RunDirectory, own: Checkpoints, /
    ) -> tuple[int, TrainState]:
        """Returns the step to begin at, and the state, which it has written as a checkpoint.

        Args:
          task: of the new run.
          config: of the new run.
          mesh: the devices.
          state: the fresh state of the new run.
          run: the directory of the new run.
          own: its checkpoints.
        """
        ...


def train(task: Task, config: TrainConfig, run: RunDirectory, ancestor: Ancestor | None = None) -> dict[str, Any]:
    """Trains, or resumes from the run's last checkpoint; writes the summary.

    Args:
      task: the task.
      config: the config.
      run: the run directory.
      ancestor: another run, with which this one begins where it has no checkpoint yet.

    Returns:
      the summary; if there are several processes, those that do not write get an empty one.

    Raises:
      ConfigError: if the config cannot be run on this data and these devices.
      CheckpointError: if checkpoints cannot be written or read.
      TrainingError: if the loss is no longer finite.
      Interrupted: if a signal stopped it, after a checkpoint.
    """
    with StopRequest() as stop:
        return _train(task, config, run, ancestor, stop)


def _train(
    task: Task, config: TrainConfig, run: RunDirectory, ancestor: Ancestor | None, stop: StopRequest
) -> dict[str, Any]:
    started = time.perf_counter()
    schedule = training_schedule(task, config)
    sinks = Sinks(run.append_metrics, followers(config.sinks) if run.writes else {})
    optimizer = run_optimizer(config, schedule.steps, schedule.epoch_steps)
    require_room(task, optimizer)
    check_frozen(config.frozen, shapes(task))
    if ancestor is not None:
        ancestor.check(task, config)
    known = run.choice() or (ancestor.choice() if ancestor is not None else None)
    choice = choose(task, config, optimizer, schedule.steps, known, stop)
    programs = compile_programs(task, config, optimizer, choice.devices)
    # Claimed when the config is known to run, so that a mistake in a flag does not occupy the directory.
    run.claim(to_dict(config))
    run.keep_model(model_file(task))
    run.write_choice(choice)
    log_uneven_batches(task, config.batch_size, programs.mesh)
    # By the methods that the run began with: what another program measures meanwhile must not change its results.
    with using(choice.methods), open_checkpoints(run, task, to_dict(config)) as checkpoints:
        state, start_step, unfinished = initial_or_restored(
            task, optimizer, config, programs.mesh, checkpoints, run, ancestor
        )
        run.keep_metrics_until(start_step, steps_in(unfinished.window), evaluated=bool(checkpoints.metrics(start_step)))
        earlier = histograms_until(run.path, start_step) if run.writes else []
        lines = sorted([*run.metrics(), *earlier], key=lambda row: row["step"]) if start_step else []
        sinks.open(to_dict(config), run.path, lines)
        with (
            sinks,
            Progress(start_step, schedule.steps, shown=run.writes) as progress,
        ):
            loop_started = time.perf_counter()
            window = LogWindow(schedule.epoch_steps, config.log_every, unfinished.window)
            record = Record(task, run, sinks, progress, checkpoints, config.log_every, window, config.histograms)
            state = train_steps(schedule, programs, state, start_step, unfinished, record, stop, config.call_seconds)
            # Programs are compiled in the loop, when they are first called.
            step_seconds = time.perf_counter() - loop_started - programs.steps.compile_seconds
            checkpoints.wait()
            evaluate_test_split(schedule, programs, state, record, stop)
    if not run.writes:
        return {}
    summary = summarise(
        task,
        run.metrics(),
        programs.mesh,
        seconds=time.perf_counter() - started,
        seconds_to_first_step=max(programs.steps.ready - started, 0.0),  # 0 if no step was left
        steps_per_second=(schedule.steps - start_step) / max(step_seconds, 1e-9),
        compile_seconds=programs.steps.compile_seconds,
        input_wait=programs.steps.input_seconds / max(step_seconds, 1e-9),
    )
    parent = run.parent()
    summary |= {} if parent is None else {"parent": parent}
    run.write_summary(summary)
    return summary


def evaluate_test_split(
    schedule: TrainingSchedule, programs: Programs[Any], state: TrainState, record: Record, stop: StopRequest
) -> None:
    """Records the metrics of the test split, with the task's own scores, and draws the plots of the run.

    Args:
      schedule: of the run.
      programs: its compiled programs.
      state: after the last step.
      record: where the metrics are recorded.
      stop: tells of signals.

    Raises:
      Interrupted: if a signal stopped it; the resumed run repeats all of it.
    """
    # None if a signal has stopped it.
    metrics = programs.evaluate["test"](state.params, stop.of_any_process)

    def finish() -> None:
        params = jax.device_get(state.params)
        test = record.task.metrics(means(metrics)) | record.task.scores(params, "test")
        record.add([{"step": schedule.steps, "epoch": schedule.epochs, "split": "test", **test}])
        plot_curves(record.run.metrics(), record.run.plots)
        record.task.plots(params, record.run.plots)
        record.sinks.figures(record.run.plots)

    if metrics is not None and record.run.writes:
        stop.unless_stopped(finish)
    wait_for_all("scored")  # scoring may take longer than the time limit of the checkpoints' own barriers
    stopped = stop.of_any_process()
    if stopped:
        raise Interrupted(f"stopped by {stopped} after the last step, {schedule.steps}, and its checkpoint")


def open_checkpoints(run: RunDirectory, task: Task, config: dict[str, Any], *, read_only: bool = False) -> Checkpoints:
    """Opens the checkpoints of a run, of which the best is that with the best value of the task's metric.

    Args:
      run: the run directory.
      task: its task.
      config: its config, as JSON can hold it.
      read_only: whether nothing may be written.

    Returns:
      the checkpoints, as a context manager.
    """
    origin = Origin(config_digest(config), task.data.checksum or None)  # none of a task without data
    return Checkpoints(
        run.checkpoints,
        origin,
        metric=task.best_metric,
        higher_is_better=task.higher_is_better,
        read_only=read_only,
    )


def training_schedule(task: Task, config: TrainConfig) -> TrainingSchedule:
    """Returns the numbers of epochs and steps of a run.

    Raises:
      ConfigError: if there are fewer examples than one batch takes, or more steps than can be counted.
    """
    steps = epoch_steps(task, config.batch_size)
    require(
        steps * config.epochs < _MOST_STEPS,
        f"a run has at most {_MOST_STEPS - 1} steps, and {config.epochs} epochs of {steps} are more; lower epochs",
    )
    return TrainingSchedule(steps, config.epochs, min(config.steps_per_call or steps, steps), config.evaluate_every)


def compile_programs(task: Task, config: TrainConfig, optimizer: Any, devices: int) -> Programs[TrainProgram]:
    """Returns the programs of a run, which are compiled when they are first called.

    Args:
      task: the task.
      config: the config.
      optimizer: the optimiser.
      devices: number of devices that each batch is split over.

    Raises:
      ConfigError: if the task carries state from batch to batch and a batch does not divide over the devices.
    """
    size = config.batch_size
    mesh = batch_mesh(str(devices), size, config.parallel.layers, config.parallel.time)
    require(
        task.carry is None or filled_batch(mesh, size) == size,
        f"batch_size {size} does not divide over {mesh.shape[BATCH]} devices, which this task needs because it carries "
        "state from batch to batch; choose a multiple, or another parallel.batch",
    )
    resident = config.data.feed == "device"
    feed = (device_feed if resident else host_feed)(mesh, task.data.splits["train"])
    options = {"resident": resident, "map": config.parallel.map, "call_seconds": config.call_seconds}
    most = training_schedule(task, config).call_steps
    return Programs(
        mesh,
        TrainProgram(task, optimizer, mesh, feed, size, config.parallel.map, most=most, known=knows_counts(config)),
        epoch_orders(mesh, task, config.seed, size),
        {name: evaluator(task, mesh, name, size, **options) for name in ("validation", "test")},
        lambda state: jax.tree.map(jnp.copy, state),
    )


def knows_counts(config: TrainConfig) -> bool:
    """Says whether a program is compiled for each number of steps in a call.

    A loop of a known number of steps needs no synchronisation of a GPU with the host after each. But calls have few
    different numbers of steps only if they are not bounded in time. On a CPU it makes no difference.
    """
    return config.call_seconds == 0 and asks_after_each_step()


def log_uneven_batches(task: Task, batch_size: int, mesh: Mesh) -> None:
    """Logs how many examples each epoch leaves out, and how batches are padded for the devices."""
    count, padded_size = left_out(task, batch_size), filled_batch(mesh, batch_size)
    if count:
        which = "the same" if task.ordered else "different ones"
        _log.info(
            "each epoch leaves out %d of %d training examples, %s every time, because they do not fill a batch of %d",
            count,
            task.examples("train"),
            which,
            batch_size,
        )
    if padded_size != batch_size:
        _log.info(
            "batches of %d are padded to %d with examples of weight zero, to divide over %d devices",
            batch_size,
            padded_size,
            mesh.shape[BATCH],
        )


def initial_or_restored(
    task: Task,
    optimizer: Any,
    config: TrainConfig,
    mesh: Mesh,
    checkpoints: Checkpoints,
    run: RunDirectory,
    ancestor: Ancestor | None = None,
) -> tuple[TrainState, int, Unfinished]:
    """Returns the state to begin with: that of the last checkpoint, else that of another run, else a fresh one.

    Args:
      task: the task.
      optimizer: the optimiser.
      config: the config.
      mesh: the devices.
      checkpoints: of the run.
      run: its directory.
      ancestor: another run to begin with.

    Returns:
      the state, the number of steps that led to it, and what the run was doing when it was stopped.
    """
    # Made in any case, since a checkpoint is restored into its structure, types and shardings.
    state = place_state(mesh, initial_train_state(task, optimizer)(config.seed))
    checkpoint = checkpoints.restore_last(as_items(state))
    if checkpoint is None:
        start = (0, state) if ancestor is None else ancestor.begin(task, config, mesh, state, run, checkpoints)
        return start[1], start[0], Unfinished()
    step, items = checkpoint
    _log.info("resuming from the checkpoint of step %d", step)
    return from_items(items), step, checkpoints.unfinished(step)
