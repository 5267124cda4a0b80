"""Recurrent networks in JAX: pure cells, and one function that unrolls them."""

from rnnjax import starting as _starting  # noqa: F401  (before what takes long to import)

# isort: split
import importlib
from typing import Any

from rnnjax.cells import (
    GRU,
    LSTM,
    Bahdanau,
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
    Luong,
    Project,
    ProjectParams,
    Residual,
    Stack,
    TimedKey,
    WeightDrop,
    Wrapper,
    Zoneout,
    attending,
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
    TuneReport,
    bidirectional,
    choose_method,
    init_bidirectional,
    static_unroll,
    tune,
    unroll,
    unroll_states,
)
from rnnjax.version import __version__ as __version__

_WHEN_ASKED_FOR = {name: f"rnnjax.{name}" for name in ("interop", "models", "nn")}


def __getattr__(name: str) -> Any:
    """Imports the folders that need Flax when they are first asked for, so that importing rnnjax needs JAX alone."""
    if name in _WHEN_ASKED_FOR:
        return importlib.import_module(_WHEN_ASKED_FOR[name])
    raise AttributeError(f"module 'rnnjax' has no attribute {name!r}")


__all__ = [
    "GRU",
    "LSTM",
    "Auto",
    "Bahdanau",
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
    "Luong",
    "Project",
    "ProjectParams",
    "Recurrence",
    "Residual",
    "Scan",
    "Stack",
    "Static",
    "Steps",
    "TimedKey",
    "TuneReport",
    "WeightDrop",
    "Wrapper",
    "Zoneout",
    "attending",
    "bidirectional",
    "choose_method",
    "init_bidirectional",
    "static_unroll",
    "tune",
    "unroll",
    "unroll_states",
]
