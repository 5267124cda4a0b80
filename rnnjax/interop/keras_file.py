"""Weight files of Keras 3."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnnjax.files import part_of


def write_keras(path: str | Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes weights as Keras 3 saves those of a model: ``model.load_weights(path)`` loads them.

    The model is one of these layers only, in this order, such as
    ``keras.Sequential([keras.Input((None, 3)), LSTM(8, return_sequences=True), Dense(2)])``.

    Args:
      path: of the file, which is replaced if it exists; Keras wants it to end in ``.weights.h5``.
      weights: what `to_keras` returned.

    Raises:
      ValueError: for a path with another ending.
      ModuleNotFoundError: if h5py is not installed.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"Keras loads weights from files that end in .weights.h5, got {path.name}")
    temporary = part_of(path)
    with _h5py().File(temporary, "w") as file:
        for name, variables in _by_layer(weights).items():
            for number, value in enumerate(variables):
                file[f"layers/{name}/vars/{number}"] = value
    os.replace(temporary, path)


def _by_layer(weights: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Returns the variables of each layer by the layer's name in a file: ``lstm/cell``, ``lstm_1/cell``, ``dense``."""
    layers: dict[str, list[np.ndarray]] = {}
    for name, value in weights.items():
        layers.setdefault(name.rpartition("/")[0], []).append(value)
    counts: dict[str, int] = {}
    named = {}
    for layer, variables in layers.items():
        kind = layer.rpartition("/")[2].removesuffix("_cell")
        number = counts[kind] = counts.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        named[f"{name}/cell" if "/" in layer else name] = variables
    return named


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ModuleNotFoundError:
        raise ModuleNotFoundError('the package h5py is missing; install with: pip install "rnnjax[export]"') from None
