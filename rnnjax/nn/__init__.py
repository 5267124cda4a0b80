"""Flax Linen modules over the pure functions; those of Flax NNX are in `rnnjax.nn.nnx`."""

import importlib
from typing import Any

from rnnjax.nn.one_hot import OneHotRNN, unroll_one_hot
from rnnjax.nn.rnn import RNN, Bidirectional

__all__ = ["RNN", "Bidirectional", "OneHotRNN", "unroll_one_hot"]


def __getattr__(name: str) -> Any:
    """Imports `rnnjax.nn.nnx` when it is first asked for."""
    if name == "nnx":
        return importlib.import_module("rnnjax.nn.nnx")
    raise AttributeError(f"module 'rnnjax.nn' has no attribute {name!r}")
