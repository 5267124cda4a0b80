"""Sequences that are made: what a cell keeps in mind, and whether it goes on beyond the lengths of training.

python -m rnnjax.train --config configs/sequences.py[:variant]
python -m rnnjax.train --config configs/sequences.py:parity --config.cell.kind=LRU --config.data.length=20
"""

import copy
from typing import Any

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.sequences import Config, SequencesConfig


def _automaton(name: str, length: int, epochs: int, cell: CellConfig) -> dict[str, Any]:
    """Returns what a finite automaton does: what is learnt at some lengths should hold at every length."""
    return {
        "cell": cell,
        "data": SequencesConfig(name=name, length=length),
        "optimizer": OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
        "epochs": epochs,
    }


def _memory(name: str, length: int, epochs: int, cell: CellConfig, **options: Any) -> dict[str, Any]:
    """Returns a problem of keeping things in mind over a length."""
    return {
        "cell": cell,
        "data": SequencesConfig(name=name, length=length, examples=64_000, held_out=512, **options),
        "optimizer": OptimizerConfig(learning_rate=5e-3, schedule="cosine", clip_norm=1.0),
        "epochs": epochs,
        "batch_size": 64,
    }


_LSTM64 = CellConfig("LSTM", hidden_size=64)
_GRU64 = CellConfig("GRU", hidden_size=64)
_BLOCKS = ["gated_residual"]

VARIANTS = {
    "parity": _automaton("parity", 40, 4, _LSTM64),
    "parity_mingru": _automaton("parity", 40, 4, CellConfig("MinGRU", 2, _BLOCKS, hidden_size=64)),
    "cycle_navigation": _automaton("cycle_navigation", 40, 8, _LSTM64),
    "modular_arithmetic": _automaton("modular_arithmetic", 20, 12, _LSTM64),
    "s5": _automaton("s5", 12, 100, CellConfig("LSTM", hidden_size=512)),
    "s5_swaps": _automaton("s5_swaps", 16, 12, CellConfig("LSTM", hidden_size=128)),
    "adding": _memory("adding", 200, 6, _GRU64),
    "adding1000": _memory("adding", 1000, 6, _GRU64),
    "copy": _memory("copy", 100, 10, _LSTM64),
    "mqar": _memory("mqar", 64, 10, CellConfig("LSTM", hidden_size=256)),
    "selective_copy": _memory("selective_copy", 256, 10, _GRU64),
}


def get_config(variant: str = "parity") -> Config:
    """Returns the config of a variant."""
    return Config(**copy.deepcopy(VARIANTS[variant]))
