"""The engine: the compiled programs of runs that are trained together, of which a run by itself is one.

It is made of a config and a mesh, whose axes are the runs, the parts of a batch, the layers and the time.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from rnnjax.backend import asks_after_each_step
from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.optimizer import Optimizer, build_optimizer, check_frozen, check_undecayed
from rnnjax.tasks.checks import check_splits
from rnnjax.tasks.task import Task
from rnnjax.training.batches import ResidentFeed, SentFeed, Traced, epoch_orders
from rnnjax.training.directory.model_file import shapes
from rnnjax.training.program import TrainProgram
from rnnjax.training.split_evaluation import Evaluator
from rnnjax.training.state import first_runs, only_run, require_room

_MOST_STEPS = 2**31  # steps are counted in 32 bits


class TrainingSchedule(NamedTuple):
    """How a run is divided into epochs and calls.

    Attributes:
      epoch_steps: steps in an epoch.
      epochs: number of epochs.
      call_steps: most steps in a call.
      evaluate_every: epochs from one evaluation to the next.
    """

    epoch_steps: int
    epochs: int
    call_steps: int
    evaluate_every: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epoch_steps * self.epochs

    def evaluates_at(self, step: int) -> bool:
        """Says whether the validation split is evaluated after `step` steps of the run."""
        epoch, rest = divmod(step, self.epoch_steps)
        return step > 0 and rest == 0 and (epoch % self.evaluate_every == 0 or epoch == self.epochs)

    def most_steps_after(self, step: int) -> int:
        """Returns the most steps that the call after `step` steps may take: it must not go beyond the epoch."""
        return min(self.call_steps, self.epoch_steps - step % self.epoch_steps)


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


def epoch_steps(task: Task, batch_size: int) -> int:
    """Returns the number of training steps in an epoch.

    Raises:
      ConfigError: if there are fewer examples, in a bucket or in total, than a batch has.
    """
    groups = task.groups("train")
    for group in groups:
        where = "" if task.buckets is None else " in a bucket"
        fits = batch_size <= len(group)
        require(fits, f"batch_size is {batch_size}, but there are {len(group)} training examples{where}; lower it")
    return sum(len(group) // batch_size for group in groups)


def optimizer_of(config: TrainConfig, schedule: TrainingSchedule) -> Callable[..., Optimizer]:
    """Returns a function that makes the optimiser of a run, of its values of the traced fields where it has any."""
    return functools.partial(
        build_optimizer, config.optimizer, schedule.steps, schedule.epoch_steps, frozen=config.frozen
    )


def plan(task: Task, config: TrainConfig, runs: int = 1) -> TrainingSchedule:
    """Returns the schedule of a run, once it is seen that runs of this config can be trained.

    Args:
      task: the task.
      config: of the runs.
      runs: how many are trained together.

    Raises:
      ConfigError: as `training_schedule`, for a missing split, if their states, data and a batch need more memory than
        there is, or for a pattern of parameters that are frozen, or not decayed, which fits none, or of frozen ones
        that fits all.
    """
    check_splits(task)
    schedule = training_schedule(task, config)
    require_room(task, config, optimizer_of(config, schedule)(), runs)
    check_frozen(config.frozen, shapes(task))
    check_undecayed(config.optimizer.undecayed, shapes(task))
    return schedule


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
      optimizer: returns the optimiser of a run, as `optimizer_of`.
      steps: training steps.
      order: returns the batches of an epoch.
      evaluate: by split, its evaluation.
      copy_states: copies the states of the runs, without padding; the next call takes the memory of the original.

    Raises:
      ConfigError: as `epoch_orders`.
    """

    def __init__(self, task: Task, config: TrainConfig, mesh: Mesh, runs: Runs | None = None):
        seeds, traced = runs or Runs([config.seed])
        resident = config.data.feed == "device"
        feed = ResidentFeed if resident else SentFeed
        self.task, self.config, self.mesh = task, config, mesh
        self.schedule = training_schedule(task, config)
        self.optimizer = optimizer_of(config, self.schedule)
        self.order = epoch_orders(task, seeds, config.batch_size, mesh)
        self.steps = TrainProgram(
            task,
            self.optimizer,
            mesh,
            feed(mesh, task.data.splits["train"], config.batch_size, traced),
            map=config.parallel.map,
            most=self.schedule.call_steps,
            known=knows_counts(config),
        )
        self.evaluate = {
            name: Evaluator(
                task,
                mesh,
                name,
                config.batch_size,
                resident=resident,
                runs=len(seeds),
                map=config.parallel.map,
                call_seconds=config.call_seconds,
            )
            for name in ("validation", "test")
        }
        self.copy_states = only_run(mesh) if runs is None else first_runs(mesh, len(seeds))


def knows_counts(config: TrainConfig) -> bool:
    """Says whether a program is compiled for each number of steps in a call.

    A loop of a known number of steps needs no synchronisation of a GPU with the host after each. But calls have few
    different numbers of steps only if they are not bounded in time. On a CPU it makes no difference.
    """
    return config.call_seconds == 0 and asks_after_each_step()
