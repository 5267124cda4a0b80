"""Recurrent networks in JAX: pure cells, and one function that unrolls them."""

from rnnjax import starting as _starting  # noqa: F401  (before what takes long to import)

# isort: split
import importlib
from typing import Any

from rnnjax.cells import (
    GRU,
    LSTM,
    BasicRNN,
    Cell,
    Dropout,
    GatedCell,
    GatedParams,
    GRUParams,
    HiddenState,
    LearnedParams,
    LearnedState,
    LSTMNorm,
    LSTMParams,
    LSTMState,
    Project,
    ProjectParams,
    Residual,
    Stack,
    TimedKey,
    Wrapper,
)
from rnnjax.unrolling import (
    Auto,
    CellSequence,
    CuDNN,
    Fused,
    Method,
    Pallas,
    Recurrence,
    Scan,
    Static,
    Steps,
    bidirectional,
    choose_method,
    init_bidirectional,
    static_unroll,
    unroll,
    unroll_states,
)

__version__ = "0.1.0"


_FOLDERS = {"interop": "rnnjax.interop", "models": "rnnjax.models", "nn": "rnnjax.nn"}


def __getattr__(name: str) -> Any:
    """Imports the folders that need Flax when they are first asked for, so that importing rnnjax needs JAX alone."""
    if name in _FOLDERS:
        return importlib.import_module(_FOLDERS[name])
    raise AttributeError(f"module 'rnnjax' has no attribute {name!r}")


__all__ = [
    "GRU",
    "LSTM",
    "Auto",
    "BasicRNN",
    "Cell",
    "CellSequence",
    "CuDNN",
    "Dropout",
    "Fused",
    "GRUParams",
    "GatedCell",
    "GatedParams",
    "HiddenState",
    "LSTMNorm",
    "LSTMParams",
    "LSTMState",
    "LearnedParams",
    "LearnedState",
    "Method",
    "Pallas",
    "Project",
    "ProjectParams",
    "Recurrence",
    "Residual",
    "Scan",
    "Stack",
    "Static",
    "Steps",
    "TimedKey",
    "Wrapper",
    "bidirectional",
    "choose_method",
    "init_bidirectional",
    "static_unroll",
    "unroll",
    "unroll_states",
]
