"""Evaluates a run that was trained before."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from rnnjax.parallel.mesh import batch_mesh
from rnnjax.tasks import build_task
from rnnjax.tasks.checks import metrics_of, scores_of
from rnnjax.training.directory.finding import find_run
from rnnjax.training.directory.opened import kept_of, methods_of_run, restore_params, run_config
from rnnjax.training.split_evaluation import Evaluator
from rnnjax.unrolling.auto import using


def evaluate_run(
    directory: str, split: str, checkpoint: str, data_path: str | None, *, trusted: bool = False
) -> dict[str, Any]:
    """Returns the metrics of a run's best or last checkpoint on a split, with its step.

    Args:
      directory: run directory, or that of a sweep with the name of a run behind it.
      split: "train", "validation" or "test".
      checkpoint: "best" or "last".
      data_path: if given, a folder to read the data from in place of the run's own.
      trusted: whether code outside rnnjax that the run's config names may be executed.

    Raises:
      ConfigError: if there is no run there, or it names such code.
      DataError, CheckpointError: if its data or checkpoints cannot be read.
    """
    run = find_run(directory)
    config = run_config(run, data_path, trusted=trusted)
    task = build_task(config, kept_of(run))
    mesh = batch_mesh("auto", config.batch_size)  # the devices here need not be those of the training
    step, params = restore_params(run, task, checkpoint, NamedSharding(mesh, PartitionSpec()))
    resident = config.data.feed == "device"
    evaluate = Evaluator(task, mesh, split, config.batch_size, resident=resident, map=config.parallel.map)
    with using(methods_of_run(run)):
        metrics = metrics_of(task, evaluate.of_only_run(params)) | scores_of(task, jax.device_get(params), split)
    return {"step": step, "checkpoint": checkpoint, "split": split, **metrics, "data": task.data.source}
