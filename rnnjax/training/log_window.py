"""Groups training steps into lines of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

Metrics = Mapping[str, Float[np.ndarray, "runs steps"]]  # by name, of each step


class LogWindow:
    """Keeps the training metrics of steps whose line is not complete yet.

    A line covers `log_every` steps, counted from the first step of an epoch; an epoch's last line may cover fewer. So
    lines depend neither on where calls end nor on where a run is stopped and resumed.

    Args:
      epoch_steps: steps in an epoch.
      log_every: steps in a line.
      pending: what `as_json` returned when the runs were stopped.

    Attributes:
      log_every: steps in a line.
    """

    def __init__(self, epoch_steps: int, log_every: int, pending: Mapping[str, list] | None = None):
        self._epoch_steps, self.log_every = epoch_steps, log_every
        # A run by itself had no axis of runs once.
        self._pending = {name: np.atleast_2d(np.array(values, np.float32)) for name, values in (pending or {}).items()}

    def take_complete(self, metrics: Metrics, step: int) -> tuple[Metrics, int]:
        """Adds the metrics ``[runs, steps]`` of new steps, and removes those of complete lines.

        Args:
          metrics: of each new step.
          step: steps of the run after them.

        Returns:
          the metrics of the complete lines, and the steps of the run after these.
        """
        if self._pending:
            metrics = {name: np.concatenate([self._pending[name], new], -1) for name, new in metrics.items()}
        count = steps_in(metrics)
        pending = 0 if step % self._epoch_steps == 0 else count % self.log_every
        complete = count - pending
        self._pending = {name: values[..., complete:] for name, values in metrics.items()} if pending else {}
        return {name: values[..., :complete] for name, values in metrics.items()}, step - pending

    def as_json(self) -> dict[str, list]:
        """Returns the metrics of the incomplete line, as JSON can hold them."""
        return {name: values.tolist() for name, values in self._pending.items()}


def steps_in(metrics: Mapping[str, Any]) -> int:
    """Returns the number of steps that metrics ``[..., steps]`` are of."""
    return np.shape(next(iter(metrics.values())))[-1] if metrics else 0
