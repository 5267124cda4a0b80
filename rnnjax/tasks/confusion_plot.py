"""A picture of which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from rnnjax.plots import drawing, new_figure, save_figure

_MOST_NAMES = 30


@drawing
def plot_confusion(
    label: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], classes: Sequence[str], path: Path
) -> None:
    """Plots for each class the share of its examples that were predicted as each class.

    Args:
      label: the true class of every example; negative ones are left out.
      predicted: the predicted classes.
      classes: their names.
      path: of the picture.
    """
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (label[label >= 0], predicted[label >= 0]), 1)
    figure, axes = new_figure(6, 5)
    image = axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, label="share of the true class")
    if len(classes) <= _MOST_NAMES:
        axes.set_xticks(range(len(classes)), classes, rotation=45)
        axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{int(counts.sum())} examples of the test split")
    save_figure(figure, path)
