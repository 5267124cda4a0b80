"""Plots of a run."""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from jaxtyping import Shaped

from rnnjax.metric_names import numbers, of_task

P = ParamSpec("P")

_log = logging.getLogger(__name__)

_LABELS = {
    "accuracy": "accuracy (fraction right)",
    "bits_per_character": "loss (bits a character)",
    "exact_match": "exact match (fraction of sequences)",
    "mse": "mean squared error",
    "perplexity": "perplexity (a token)",
}
_NO_GLYPH = r"Glyph (\d+) .*missing from font"  # matplotlib's warning of a character
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

    A split that has one value of a metric, such as a score of the test split, is a level; a metric without a split
    that has more gets no plot, nor does what is of the optimiser, which sinks have.
    """
    for name in sorted({name for row in rows for name in of_task(numbers(row))}):
        splits = dict.fromkeys(row["split"] for row in rows if name in row)
        points = {
            split: [(row["step"], row[name]) for row in rows if row["split"] == split and name in row]
            for split in splits
        }
        if max(map(len, points.values())) < 2:
            continue
        figure, axes = new_figure(6, 4, title=f"{axis_label(name).capitalize()} by training step")
        for number, (split, line) in enumerate(points.items()):
            if len(line) > 1:
                axes.plot(*zip(*line), label=split, color=f"C{number}", marker="." if len(line) < 50 else None)
            else:
                axes.axhline(line[0][1], label=f"{split}, at step {line[0][0]:,}", color=f"C{number}", linestyle="--")
        scale = "log" if spans_decades(name, [value for line in points.values() for _, value in line]) else "linear"
        axes.set(xlabel="training step", ylabel=axis_label(name), yscale=scale)
        axes.legend()
        axes.grid(alpha=0.3, which="both")
        save_figure(figure, directory / f"{name}.png")


def axis_label(name: str) -> str:
    """Returns what an axis says of a metric: its name in words, and what it is counted in where that is one thing."""
    return _LABELS.get(name, name.replace("_", " "))


def spans_decades(name: str, values: Sequence[float]) -> bool:
    """Says whether a metric is shown on a logarithmic scale: a loss, all above 0, that spans two decades or more."""
    is_loss = any(word in name for word in ("loss", "mse", "perplexity"))
    finite = [value for value in values if math.isfinite(value)]
    return is_loss and bool(finite) and 0 < 100 * min(finite) <= max(finite)


@drawing
def plot_images(images: Shaped[np.ndarray, "N height width"], titles: Sequence[str], path: Path, *, about: str) -> None:
    """Draws images in rows of five, each below its title.

    Args:
      images: the images; without any there is no plot.
      titles: of each.
      path: of the plot.
      about: the title of the whole.
    """
    if not len(images):
        return
    count, height, width = images.shape
    sheet = np.zeros((-(-count // 5), height + _TITLE, 5, width + _GAP), images.dtype)
    figure, axes = new_figure(8, 0.3 + 1.8 * len(sheet), title=about)
    for number, (image, title) in enumerate(zip(images, titles)):
        row, column = divmod(number, 5)
        sheet[row, _TITLE:, column, :width] = image
        x, y = column * (width + _GAP) + width / 2, row * (height + _TITLE) + _TITLE / 2
        axes.text(x, y, title, fontsize=8, ha="center", va="center")
    axes.imshow(sheet.reshape(sheet.shape[0] * sheet.shape[1], -1), cmap="gray_r")  # drawing a single image is faster
    axes.axis("off")
    save_figure(figure, path)


def new_figure(width: float, height: float, *, title: str = "") -> tuple[Any, Any]:
    """Returns a matplotlib figure of a size in inches, and its axes, below a title."""
    # Imported here because it takes half a second, and without pyplot, which keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, parse_math=False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure, and creates its directory if needed; if that fails, or a font is missing, it logs a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as told:
            warnings.filterwarnings("always", _NO_GLYPH)
            figure.canvas.print_png(path)  # `savefig` would draw it twice, to the same file
    except OSError as error:
        _log.warning("the plot %s cannot be written (%s)", path, error.strerror)
        return
    _warn_of_boxes(path, [str(each.message) for each in told])
    for each in told:
        if not re.match(_NO_GLYPH, str(each.message)):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _warn_of_boxes(path: Path, told: Sequence[str]) -> None:
    codes = dict.fromkeys(found[1] for found in map(re.compile(_NO_GLYPH).match, told) if found)
    if codes:
        characters = "".join(chr(int(code)) for code in codes)
        _log.warning("the plot %s has boxes for %s: matplotlib finds no font that has them", path, characters)
