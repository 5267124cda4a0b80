"""Which steps share a line of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Metrics = Mapping[str, np.ndarray]  # of steps, each [..., steps]


class LogWindow:
    """Training metrics that wait for the other steps of their line.

    A line is of `log_every` steps, counted from an epoch's first, the last line of an epoch of those that are left.
    So lines do not depend on where calls end, nor on where a run is stopped.

    Args:
      epoch_steps: steps in an epoch.
      log_every: steps in a line.
      kept: what `as_json` gave when the run was stopped.
    """

    def __init__(self, epoch_steps: int, log_every: int, kept: Mapping[str, list] | None = None):
        self._epoch_steps, self._log_every = epoch_steps, log_every
        self._open = {name: np.array(values, np.float32) for name, values in (kept or {}).items()}

    def closed(self, metrics: Metrics, step: int) -> tuple[Metrics, int]:
        """Adds the metrics of the steps before a step, and takes out those of whole lines.

        Returns:
          their metrics, and the step after the last of them.
        """
        if self._open:
            metrics = {name: np.concatenate([self._open[name], new], -1) for name, new in metrics.items()}
        count = steps_in(metrics)
        left = 0 if step % self._epoch_steps == 0 else count % self._log_every
        self._open = {name: values[..., count - left :] for name, values in metrics.items()} if left else {}
        return {name: values[..., : count - left] for name, values in metrics.items()}, step - left

    def as_json(self) -> dict[str, list]:
        """Returns the metrics that wait, as JSON can hold them."""
        return {name: values.tolist() for name, values in self._open.items()}


def steps_in(metrics: Mapping[str, Any]) -> int:
    """Returns of how many steps there are metrics."""
    return np.shape(next(iter(metrics.values())))[-1] if metrics else 0
