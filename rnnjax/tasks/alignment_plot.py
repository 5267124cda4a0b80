"""Plots of a decoder's attention weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rnnjax.plots import drawing, new_figure, save_figure

_FONTS = ("DejaVu Sans", "Noto Sans CJK KR", "NanumGothic", "Malgun Gothic", "AppleGothic", "Unifont")

_log = logging.getLogger(__name__)


@drawing
def plot_alignment(weights: Float[np.ndarray, "T S"], source: Sequence[str], target: Sequence[str], path: Path) -> None:
    """Plots attention weights: source tokens from left to right, steps of the target from top to bottom.

    Args:
      weights: of every source token in every step of the target.
      source: the source tokens.
      target: the target tokens.
      path: of the plot.
    """
    title = "Attention of each step to the source"
    figure, axes = new_figure(max(4, 3 + 0.28 * len(source)), max(3, 1.9 + 0.28 * len(target)), title=title)
    image = axes.imshow(weights, cmap="gray_r", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="weight")
    fonts = {"family": _installed_fonts()}
    axes.set_xticks(range(len(source)), source, rotation=0 if max(map(len, source)) < 3 else 90, fontproperties=fonts)
    axes.set_yticks(range(len(target)), target, fontproperties=fonts)
    axes.set(xlabel="tokens of the source", ylabel="steps of the target")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_figure(figure, path)
    if any("missing from" in str(warning.message) for warning in caught):
        _log.warning("no installed font has every character of %s; install one such as Noto Sans CJK", path.name)


def _installed_fonts() -> list[str]:
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return [name for name in _FONTS if name in installed]
