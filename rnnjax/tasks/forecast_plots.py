"""Pictures of forecasts beside what came, and of what follows the end of a series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from rnnjax.plots import drawing, new_figure, save_figure

_MOST_COLUMNS, _MOST_STEPS = 4, 400


@drawing
def plot_forecasts(
    predicted: Float[np.ndarray, "N H K"],
    truth: Float[np.ndarray, "N H K"],
    counted: Bool[np.ndarray, "N H K"],
    names: Sequence[str],
    path: Path,
) -> None:
    """Plots forecasts of windows one behind the other, none of which overlap, over what came.

    Args:
      predicted: the forecasts of windows one step apart.
      truth: what came.
      counted: which of that is not missing.
      names: of the columns; the first four are drawn.
      path: of the picture.
    """
    count, horizon, _ = predicted.shape
    starts = range(0, min(count, _MOST_STEPS), horizon)
    shown = names[:_MOST_COLUMNS]
    figure, axes = new_figure(9, 2.6 * len(shown))
    axes.remove()
    came = np.where(counted, truth, np.nan)
    for column, name in enumerate(shown):
        axes = figure.add_subplot(len(shown), 1, column + 1)
        for start in starts:
            steps = np.arange(start, start + horizon)
            first = start == 0
            axes.plot(steps, came[start, :, column], color="0.6", marker=".", label="what came" if first else None)
            axes.plot(steps, predicted[start, :, column], color="C0", label="forecast" if first else None)
        axes.set(xlabel="step from the first forecast", ylabel=name, title=f"Test split, {horizon} steps ahead: {name}")
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, path)


@drawing
def plot_following(
    known: Float[np.ndarray, "W K"], following: Float[np.ndarray, "H K"], names: Sequence[str], path: Path
) -> None:
    """Plots the end of a series and what is forecast to follow.

    Args:
      known: the last values, NaN where they are missing.
      following: the forecast.
      names: of the columns; the first four are drawn.
      path: of the picture.
    """
    shown = names[:_MOST_COLUMNS]
    figure, axes = new_figure(8, 2.6 * len(shown))
    axes.remove()
    for column, name in enumerate(shown):
        axes = figure.add_subplot(len(shown), 1, column + 1)
        axes.plot(np.arange(1 - len(known), 1), known[:, column], color="0.6", marker=".", label="known")
        axes.plot(np.arange(1, len(following) + 1), following[:, column], color="C0", marker=".", label="forecast")
        axes.set(xlabel="steps from the last known one", ylabel=name, title=f"What follows: {name}")
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, path)
