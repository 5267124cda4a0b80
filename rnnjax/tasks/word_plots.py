"""Plots of word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from rnnjax.plots import drawing, new_figure, save_figure

_WIDTH, _HEIGHT, _POINTS = 11, 8.5, 8  # inches of the plot, points of a letter's height


@drawing
def plot_words(points: Float[np.ndarray, "N 2"], words: Sequence[str], path: Path) -> None:
    """Plots words at points in the plane; a word that would cover one before it is left as its dot."""
    shown = readable(points, words)
    title = f"The {len(words)} most frequent words by the first two principal components of their vectors"
    figure, axes = new_figure(_WIDTH, _HEIGHT, title=title)
    hidden = np.setdiff1d(np.arange(len(words)), shown)
    axes.scatter(*points.T, s=0)  # of which the limits of the axes are made
    axes.scatter(*points[hidden].T, s=6, color="0.7", label=f"{len(hidden)} words whose names would cover others")
    for number in shown:
        style = {"fontsize": _POINTS, "ha": "center", "va": "center", "parse_math": False}
        axes.annotate(words[number], points[number], **style)
    axes.set(xlabel="first principal component", ylabel="second principal component")
    axes.grid(alpha=0.2)
    if len(hidden):
        axes.legend(fontsize=_POINTS)
    save_figure(figure, path)


def readable(points: Float[np.ndarray, "N 2"], words: Sequence[str]) -> Int[np.ndarray, " K"]:
    """Returns which words can be written at their points so that none covers another; the first ones win."""
    extent = np.maximum(np.ptp(points, axis=0), 1e-12)
    # Sizes in points of a plot nine tenths of which are axes, of letters a little over half as wide as high.
    places = (points - points.min(0)) / extent * 72 * 0.9 * np.array([_WIDTH, _HEIGHT])
    sizes = np.array([[0.62 * _POINTS * len(word), 1.2 * _POINTS] for word in words]).reshape(-1, 2)
    shown: list[int] = []
    for number in range(len(words)):
        apart = np.abs(places[shown] - places[number]) >= (sizes[shown] + sizes[number]) / 2
        if apart.any(1).all():
            shown.append(number)
    return np.array(shown, int)
