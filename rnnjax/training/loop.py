"""A run from its first step, or its last checkpoint, to its summary."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from rnnjax.config import TrainConfig
from rnnjax.config_group import to_dict
from rnnjax.parallel.mesh import BATCH, batch_mesh, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.ancestor import Ancestor
from rnnjax.training.calls import train_and_test
from rnnjax.training.devices import choose
from rnnjax.training.directory.checkpoint import Checkpoints, Unfinished
from rnnjax.training.directory.histograms import histograms_until
from rnnjax.training.directory.model_file import model_file, model_size, shapes
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.directory.summary import summarise
from rnnjax.training.engine import Engine, plan
from rnnjax.training.interruption import StopRequest
from rnnjax.training.log_window import steps_in
from rnnjax.training.profile import Profile
from rnnjax.training.record import Beginning
from rnnjax.training.run_record import RunRecord
from rnnjax.training.sinks.named import followers
from rnnjax.training.sinks.sink import Sinks
from rnnjax.training.state import as_items, as_only_run, from_items, initial_train_state, place_state
from rnnjax.unrolling.auto import using

_log = logging.getLogger(__name__)


def train(
    task: Task,
    config: TrainConfig,
    run: RunDirectory,
    ancestor: Ancestor | None = None,
    *,
    profile: Path | None = None,
) -> dict[str, Any]:
    """Trains, or resumes from the run's last checkpoint; writes the summary.

    Args:
      task: the task.
      config: the config.
      run: the run directory.
      ancestor: another run, with which this one begins where it has no checkpoint yet.
      profile: a directory for a trace of a few training steps, by JAX's profiler; None for none.

    Returns:
      the summary; if there are several processes, those that do not write get an empty one.

    Raises:
      ConfigError: if the config cannot be run on this data and these devices.
      CheckpointError: if checkpoints cannot be written or read.
      TrainingError: if the loss is no longer finite.
      DirectoryInUse: if another run writes in the directory.
      Interrupted: if a signal stopped it, after a checkpoint.
    """
    with StopRequest() as stop, run.locked():
        return _train(task, config, run, ancestor, stop, Profile(profile))


def _train(
    task: Task, config: TrainConfig, run: RunDirectory, ancestor: Ancestor | None, stop: StopRequest, profile: Profile
) -> dict[str, Any]:
    started = time.perf_counter()
    sinks = Sinks(run.append_metrics, followers(config.sinks) if run.writes else {})
    schedule = plan(task, config)
    if ancestor is not None:
        ancestor.check(task, config)
    known = run.choice() or (ancestor.choice() if ancestor is not None else None)
    choice = choose(task, config, schedule.steps, known, stop)
    parallel = config.parallel
    mesh = batch_mesh(str(choice.devices), config.batch_size, parallel.layers, parallel.time)
    engine = Engine(task, config, mesh)
    engine.steps.profile = profile
    # Claimed when the config is known to run, so that a mistake in a flag does not occupy the directory.
    run.claim(to_dict(config))
    run.keep_model(model_file(task))
    run.write_choice(choice)
    _log.info("model: %s", model_size(shapes(task), config.frozen))
    log_uneven_batches(task, config.batch_size, mesh)
    # By the methods that the run began with: what another program measures meanwhile must not change its results.
    with using(choice.methods), open_checkpoints(run, task, to_dict(config)) as checkpoints:
        begin = initial_or_restored(engine, checkpoints, run, ancestor)
        run.keep_metrics_until(
            begin.step, steps_in(begin.unfinished.window), evaluated=bool(checkpoints.metrics(begin.step))
        )
        earlier = histograms_until(run.path, begin.step) if run.writes else []
        lines = sorted([*run.metrics(), *earlier], key=lambda row: row["step"]) if begin.step else []
        sinks.open(to_dict(config), run.path, lines)
        with sinks:
            trained = train_and_test(engine, begin, RunRecord(engine, begin, checkpoints, run, sinks), stop)
    profile.end()
    if not run.writes:
        return {}
    times = {
        "seconds": round(time.perf_counter() - started, 3),
        "seconds_to_first_step": round(max(engine.steps.ready - started, 0.0), 3),  # 0 if no step was left
        "steps_per_second": round(trained.steps_per_second, 3),
        "compile_seconds": round(engine.steps.compile_seconds, 3),
        "input_wait": round(trained.input_wait, 4),
    }
    summary = summarise(task, run.metrics(), mesh.size, times)
    parent = run.parent()
    summary |= {} if parent is None else {"parent": parent}
    run.write_summary(summary)
    return summary


def log_uneven_batches(task: Task, batch_size: int, mesh: Mesh) -> None:
    """Logs how many examples each epoch leaves out, and how batches are padded for the devices."""
    count = sum(len(group) % batch_size for group in task.groups("train"))
    padded_size = filled_batch(mesh, batch_size)
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
    engine: Engine, checkpoints: Checkpoints, run: RunDirectory, ancestor: Ancestor | None = None
) -> Beginning:
    """Returns what to begin with: the state of the last checkpoint, else that of another run, else a fresh one.

    Args:
      engine: of the run.
      checkpoints: of the run.
      run: its directory.
      ancestor: another run to begin with.
    """
    mesh, seed = engine.mesh, engine.config.seed
    # Made in any case, since a checkpoint is restored into its structure, types and shardings.
    state = place_state(mesh, initial_train_state(engine.task, engine.optimizer())(seed))
    checkpoint = checkpoints.restore_last(as_items(state))
    step, unfinished = 0, Unfinished()
    if checkpoint is not None:
        step, items = checkpoint
        _log.info("resuming from the checkpoint of step %d", step)
        state, unfinished = from_items(items), checkpoints.unfinished(step)
    elif ancestor is not None:
        step, state = ancestor.begin(engine.task, engine.config, state, run, checkpoints)
    return Beginning(as_only_run(mesh, state), step, unfinished)
