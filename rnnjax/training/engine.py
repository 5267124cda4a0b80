"""The engine: the compiled programs of runs that are trained together, of which a run by itself is one.

It is made of a config and a mesh, whose axes are the runs, the parts of a batch, the layers and the time.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rnnjax.backend import asks_after_each_step
from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.optimizer import Optimizer, build_optimizer
from rnnjax.parallel.mesh import BATCH, filled_batch
from rnnjax.tasks.task import Task
from rnnjax.training.batches import epoch_orders, training_schedule
from rnnjax.training.feeds import Traced, training_feed
from rnnjax.training.program import TrainProgram
from rnnjax.training.split_evaluation import Evaluator
from rnnjax.training.state import TrainState, first_runs, only_run, padded_runs


class Runs(NamedTuple):
    """Runs of one task and config that are trained together.

    Attributes:
      seeds: of every run.
      traced: for every run, the values of the fields of the optimiser that differ.
    """

    seeds: Sequence[int]
    traced: Traced = types.MappingProxyType({})


class Engine:
    """The programs of runs, which are compiled when they are first called.

    Args:
      task: the task of all runs.
      config: of all runs; they may differ in what `runs` says.
      mesh: the devices.
      runs: many runs; None for the one that the config says, whose state has no axis of runs where it is kept.

    Attributes:
      mesh: the devices.
      schedule: of each run.
      steps: training steps.
      order: returns the batches of an epoch.
      evaluate: by split, its evaluation.
      copy_states: copies the states of the runs, without padding; the next call takes the memory of the original.

    Raises:
      ConfigError: if the task carries state from batch to batch and a batch does not divide over the devices.
    """

    def __init__(self, task: Task, config: TrainConfig, mesh: Mesh, runs: Runs | None = None):
        size = config.batch_size
        require(
            task.carry is None or filled_batch(mesh, size) == size,
            f"batch_size {size} does not divide over {mesh.shape[BATCH]} devices, which this task needs because it "
            "carries state from batch to batch; choose a multiple, or another parallel.batch",
        )
        self.task, self.config, self.mesh = task, config, mesh
        self.schedule = training_schedule(task, config)
        self.copy_states: Callable[[TrainState], TrainState]
        self.copy_states = only_run(mesh) if runs is None else first_runs(mesh, len(runs.seeds))
        seeds, traced = runs or Runs([config.seed])
        padded = padded_runs(mesh, len(seeds))
        self.steps = self._steps({name: values[padded] for name, values in traced.items()})
        self.order = epoch_orders(mesh, task, [seeds[number] for number in padded], size)
        self.evaluate = {name: self._evaluator(name, len(padded)) for name in ("validation", "test")}

    def _steps(self, traced: Traced) -> TrainProgram:
        task, config = self.task, self.config
        resident = config.data.feed == "device"
        feed = training_feed(self.mesh, task.data.splits["train"], config.batch_size, resident=resident)
        return TrainProgram(
            task,
            self.optimizer,
            self.mesh,
            feed,
            traced=traced,
            map=config.parallel.map,
            most=self.schedule.call_steps,
            known=knows_counts(config),
        )

    def _evaluator(self, split: str, runs: int) -> Evaluator:
        config = self.config
        return Evaluator(
            self.task,
            self.mesh,
            split,
            config.batch_size,
            resident=config.data.feed == "device",
            runs=runs,
            map=config.parallel.map,
            call_seconds=config.call_seconds,
        )

    def optimizer(self, traced: Any = None) -> Optimizer:
        """Returns the optimiser of a run, with its values of the traced fields in place of the config's."""
        config, schedule = self.config, self.schedule
        return build_optimizer(config.optimizer, schedule.steps, schedule.epoch_steps, traced, config.frozen)


def knows_counts(config: TrainConfig) -> bool:
    """Says whether a program is compiled for each number of steps in a call.

    A loop of a known number of steps needs no synchronisation of a GPU with the host after each. But calls have few
    different numbers of steps only if they are not bounded in time. On a CPU it makes no difference.
    """
    return config.call_seconds == 0 and asks_after_each_step()
