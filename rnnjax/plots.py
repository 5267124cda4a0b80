"""Plots of a run."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from jaxtyping import Shaped

P = ParamSpec("P")

_log = logging.getLogger(__name__)

_TITLE, _GAP = 6, 4  # pixels above and beside each image of a sheet


def drawing(plot: Callable[P, None]) -> Callable[P, None]:
    """Makes a function that draws do nothing where matplotlib is not installed."""

    @functools.wraps(plot)
    def drawn(*arguments: P.args, **options: P.kwargs) -> None:
        if can_draw():
            plot(*arguments, **options)

    return drawn


@functools.cache
def can_draw() -> bool:
    """Says whether matplotlib is installed, and once in the log that it is not."""
    installed = importlib.util.find_spec("matplotlib") is not None
    if not installed:
        _log.warning("matplotlib is not installed: no plots are drawn")
    return installed


@drawing
def plot_curves(rows: Sequence[dict[str, Any]], directory: Path) -> None:
    """Plots the metrics of `metrics.jsonl` against the step: a plot for each metric, with a line for each split.

    A metric that was recorded once, such as a score of the test split, is no curve and gets no plot.
    """
    times = Counter(name for row in rows for name in row)
    for name in sorted(name for name in times.keys() - {"step", "epoch", "split"} if times[name] > 1):
        figure, axes = new_figure(6, 4)
        for split in dict.fromkeys(row["split"] for row in rows if name in row):
            points = [(row["step"], row[name]) for row in rows if row["split"] == split and name in row]
            axes.plot(*zip(*points), label=split, marker="." if len(points) < 50 else None)
        axes.set(xlabel="step", ylabel=name)
        axes.legend()
        axes.grid(alpha=0.3)
        save_figure(figure, directory / f"{name}.png")


@drawing
def plot_images(images: Shaped[np.ndarray, "N height width"], titles: Sequence[str], path: Path) -> None:
    """Draws images in rows of five, each below its title."""
    if not len(images):
        return
    count, height, width = images.shape
    sheet = np.zeros((-(-count // 5), height + _TITLE, 5, width + _GAP), images.dtype)
    figure, axes = new_figure(8, 1.8 * len(sheet))
    for number, (image, title) in enumerate(zip(images, titles)):
        row, column = divmod(number, 5)
        sheet[row, _TITLE:, column, :width] = image
        x, y = column * (width + _GAP) + width / 2, row * (height + _TITLE) + _TITLE / 2
        axes.text(x, y, title, fontsize=8, ha="center", va="center")
    axes.imshow(sheet.reshape(sheet.shape[0] * sheet.shape[1], -1), cmap="gray_r")  # drawing a single image is faster
    axes.axis("off")
    save_figure(figure, path)


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Returns a matplotlib figure of a size in inches, and its axes."""
    # Imported here because it takes half a second, and without pyplot, which keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure, and creates its directory if needed; if that fails, it logs a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        _log.warning("the plot %s cannot be written (%s)", path, error.strerror)
