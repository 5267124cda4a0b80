"""How a run is divided into epochs and calls."""

from __future__ import annotations

from typing import NamedTuple

from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.tasks.task import Task
from rnnjax.training.batches import epoch_steps

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
