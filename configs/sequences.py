"""draft"""

import copy
from typing import Any

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.sequences import Config, SequencesConfig


def _automaton(name: str, length: int, epochs: int, kind: str = "LSTM", hidden_size: int = 64) -> dict[str, Any]:
    """Returns a problem that a finite automaton solves: what is learnt at some length should hold at every length."""
    return {
        "cell": CellConfig(kind=kind, hidden_size=hidden_size),
        "data": SequencesConfig(name=name, length=length),
        "optimizer": OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
        "epochs": epochs,
    }


def _memory(name: str, length: int, epochs: int, cell: CellConfig, **more: Any) -> dict[str, Any]:
    """Returns a problem of keeping things in mind."""
    return {
        "cell": cell,
        "data": SequencesConfig(name=name, length=length, examples=64_000, held_out=512),
        "optimizer": OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
        "epochs": epochs,
        "batch_size": 64,
        **more,
    }


VARIANTS = {
    "parity": _automaton("parity", 40, 4),
    "parity_mingru": _automaton("parity", 40, 4, "MinGRU"),
    "cycle_navigation": _automaton("cycle_navigation", 40, 10, "GRU"),
    "modular_arithmetic": _automaton("modular_arithmetic", 40, 20, "GRU"),
    "s5": _automaton("s5", 12, 20, "GRU", 128),
    "s5_swaps": _automaton("s5_swaps", 16, 10, "GRU", 128),
    "adding": _memory("adding", 200, 10, CellConfig(kind="LSTM", hidden_size=64)),
    "adding1000": _memory("adding", 1000, 10, CellConfig(kind="LSTM", hidden_size=64)),
    "copy": _memory("copy", 100, 10, CellConfig(kind="LSTM", hidden_size=64)),
    "mqar": _memory("mqar", 64, 10, CellConfig(kind="LSTM", hidden_size=64), embedding=64),
    "selective_copy": _memory("selective_copy", 256, 10, CellConfig(kind="LSTM", hidden_size=64)),
}


def get_config(variant: str = "parity") -> Config:
    """Returns the config of a variant."""
    return Config(**copy.deepcopy(VARIANTS[variant]))
