"""A plot of a metric by the length of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rnnjax.plots import drawing, new_figure, save_figure


@drawing
def plot_by_length(results: Mapping[int, Mapping[str, float]], trained: int, path: Path) -> None:
    """Plots accuracy by length.

    Args:
      results: for each length, metrics with an `accuracy`.
      trained: the longest length in training, which is marked.
      path: of the plot.
    """
    figure, axes = new_figure(6, 4, title="Accuracy by length of the sequence")
    axes.axvline(trained, color="0.7", linestyle="--", label="longest in training")
    axes.plot(list(results), [row["accuracy"] for row in results.values()], marker="o")
    axes.set(xlabel="length (steps)", ylabel="accuracy (fraction right)", ylim=(-0.02, 1.02))
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)
