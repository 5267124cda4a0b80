"""Plots of a time series, of a model's predictions, and of a series that it generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rnnjax.data.series import END, RESOLUTION, START, series, window_at
from rnnjax.plots import drawing, new_figure, save_figure


@drawing
def plot_series(start: float, steps: int, directory: Path) -> None:
    """Plots the whole series with one training window, and this window alone with its targets."""
    window, times = window_at(np.array([start]), steps)[0], start + RESOLUTION * np.arange(steps + 1)
    figure, axes = new_figure(8, 3.5, title="The series, and a window of it to train on")
    everywhere = np.arange(START, END, RESOLUTION)
    axes.plot(everywhere, series(everywhere), label="t sin(t) / 3 + 2 sin(5t)")
    axes.plot(times, window, linewidth=3, label="a training instance")
    _finish(figure, axes, "time t", directory / "series.png")
    figure, axes = new_figure(6, 4, title="A training instance: each target is the next input")
    axes.plot(times[:-1], window[:-1], "o", markersize=9, fillstyle="none", label="input")
    axes.plot(times[1:], window[1:], "*", label="target")
    _finish(figure, axes, "time t", directory / "instance.png")


@drawing
def plot_prediction(
    start: float, window: Float[np.ndarray, "T+1"], predicted: Float[np.ndarray, " T"], path: Path
) -> None:
    """Plots the predictions for a window beside their targets.

    Args:
      start: time of its first value.
      window: the values.
      predicted: the predictions of all values but the first.
      path: of the plot.
    """
    times = start + RESOLUTION * np.arange(1, len(window))
    figure, axes = new_figure(6, 4, title="Predictions of the next value, each from the true values before it")
    axes.plot(times, window[1:], "*", label="target")
    axes.plot(times, predicted, ".", label="prediction")
    _finish(figure, axes, "time t", path)


@drawing
def plot_generated(
    window: Float[np.ndarray, " T"],
    following: Float[np.ndarray, " N"],
    truth: Float[np.ndarray, " N"] | None,
    path: Path,
) -> None:
    """Plots the prompt and the values generated after it, over the series itself if that is known.

    Args:
      window: the values of the prompt.
      following: the generated values.
      truth: the values of the series after the prompt; None if there are none.
      path: of the plot.
    """
    steps = np.arange(len(window), len(window) + len(following))
    figure, axes = new_figure(8, 3.5, title="A series that the model continues from its own predictions")
    if truth is not None:
        axes.plot(steps, truth, color="0.7", label="the series")
    axes.plot(np.arange(len(window)), window, linewidth=3, label="prompt")
    axes.plot(steps, following, label="generated")
    _finish(figure, axes, "step", path)


def _finish(figure: Any, axes: Any, xlabel: str, path: Path) -> None:
    axes.set(xlabel=xlabel, ylabel="value")
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)
