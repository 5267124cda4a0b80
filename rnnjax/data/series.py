"""Windows of a function of time, for predicting its next value."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from rnnjax.data.dataset import DataSet, content_checksum

START, END, RESOLUTION = 0.0, 30.0, 0.1
HELD_OUT = 1000

_FORMULA = "t*sin(t)/3 + 2*sin(5t)"


def series(t: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Returns ``t sin(t) / 3 + 2 sin(5 t)`` (Géron, Hands-On Machine Learning, 2017, chapter 14)."""
    return t * np.sin(t) / 3 + 2 * np.sin(5 * t)


def window_at(starts: Float[np.ndarray, " N"], steps: int) -> Float[np.ndarray, "N steps+1"]:
    """Returns the values at `steps` + 1 times, 0.1 apart, after each start, in float32: inputs and the last target."""
    return series(np.asarray(starts)[:, None] + RESOLUTION * np.arange(steps + 1)).astype(np.float32)


def load_series(windows: int, steps: int, seed: int) -> DataSet:
    """Generates windows of `series` on [0, 30], each split with `window` float32 [N, steps + 1].

    The windows of `train` start at random times. `validation` and `test` have 1,000 windows each, always the same,
    which start at equal distances, those of `test` halfway between those of `validation`. They are other windows of the
    same interval, so they measure interpolation, not extrapolation.

    Args:
      windows: number of training windows.
      steps: number T of inputs in a window.
      seed: of the start times.

    Raises:
      ValueError: if a window does not fit into [0, 30].
    """
    last_start = END - START - RESOLUTION * steps
    if last_start <= 0:
        raise ValueError(f"a window must be shorter than the series, {longest_window()} steps, got {steps}")
    places = {
        "train": np.random.default_rng(seed).random(windows),
        "validation": np.arange(HELD_OUT) / HELD_OUT,
        "test": (np.arange(HELD_OUT) + 0.5) / HELD_OUT,
    }
    splits = {name: {"window": window_at(START + last_start * place, steps)} for name, place in places.items()}
    source = f"{windows:,} windows of {_FORMULA} on [{START:g}, {END:g}], generated with seed {seed}"
    return DataSet("series", splits, source, content_checksum(splits))


def longest_window() -> int:
    """Returns the largest number of steps in a window for which windows can start at different times."""
    return round((END - START) / RESOLUTION) - 1
