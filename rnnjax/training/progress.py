"""Shows the progress of training, at a terminal or in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

import numpy as np
from jaxtyping import Float

try:
    from tqdm import tqdm
except ImportError:  # lines instead of a bar, as where there is no terminal
    tqdm = None


class Progress:
    """A progress bar with rate, metrics and remaining time; without a terminal or tqdm, one plain line per epoch.

    Args:
      step: steps already taken.
      steps: steps of the whole run.
      shown: whether this process shows it, as only one of several does.
    """

    def __init__(self, step: int, steps: int, *, shown: bool = True):
        self._shown = shown
        self._first, self._step, self._steps = step, step, steps
        self._epoch: list[Mapping[str, np.ndarray]] = []
        self._started = time.perf_counter()
        self._bar = None
        if tqdm is not None:
            disable = None if shown else True
            self._bar = tqdm(total=steps, initial=step, unit="step", disable=disable, dynamic_ncols=True)

    def advance(
        self, step: int, metrics: Mapping[str, float], steps: Mapping[str, Float[np.ndarray, " steps"]]
    ) -> None:
        """Moves the progress bar.

        Args:
          step: steps taken so far.
          metrics: shown beside the bar.
          steps: metrics of every step since the last call, for the means over the epoch.
        """
        self._epoch.append(steps)
        if self._bar is not None:
            self._bar.update(step - self._step)
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()})
        self._step = step

    def epoch(self, epoch: int, validation: Mapping[str, float]) -> None:
        """Shows the metrics of an epoch that is over."""
        names = self._epoch[0] if self._epoch else ()  # empty if a run resumes with the evaluation
        train = {name: np.concatenate([part[name] for part in self._epoch]).mean() for name in names}
        self._epoch = []
        if not self._shown:
            return
        metrics = ({"train": train} if train else {}) | {"validation": validation}
        text = "  ".join(
            f"{split} " + " ".join(f"{name} {value:.4f}" for name, value in values.items())
            for split, values in metrics.items()
        )
        if self._bar is not None and not self._bar.disable:
            self._bar.write(f"epoch {epoch}  {text}", file=sys.stderr)
            return
        print(f"epoch {epoch}  step {self._step}/{self._steps}  {text}{self._rate()}", file=sys.stderr, flush=True)

    def _rate(self) -> str:
        """Returns steps per second and the remaining time; an empty string if no step was taken yet."""
        if self._step == self._first:
            return ""
        rate = (self._step - self._first) / max(time.perf_counter() - self._started, 1e-9)
        return f"  {rate:.1f} steps/s  {(self._steps - self._step) / rate:.0f} s left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
