"""Plots of word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rnnjax.plots import drawing, new_figure, save_figure


@drawing
def plot_words(points: Float[np.ndarray, "N 2"], words: Sequence[str], path: Path) -> None:
    """Plots words at points in the plane."""
    figure, axes = new_figure(10, 8)
    axes.scatter(*points.T, s=4, color="lightgray")
    for point, word in zip(points, words):
        axes.annotate(word, point, fontsize=7, ha="center", va="center", parse_math=False)
    axes.set_axis_off()
    save_figure(figure, path)
