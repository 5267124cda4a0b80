"""MNIST by rows.

python -m rnnjax.train --config configs/mnist.py[:variant]
"""

import copy

from rnnjax.config import CellConfig, DataConfig, OptimizerConfig
from rnnjax.tasks.mnist import Config

_DECAYED = OptimizerConfig(learning_rate=2e-3, schedule="cosine")

_VARIANTS = {
    "rnn150": {},
    "rnn150_long": {"epochs": 100},
    "rnn128": {"cell": CellConfig(hidden_size=128), "batch_size": 128, "epochs": 30},
    "rnn31": {"cell": CellConfig(hidden_size=31), "batch_size": 128, "epochs": 10},
    "rnn31x3": {
        "cell": CellConfig(hidden_size=31, layers=3),
        "optimizer": _DECAYED,
        "batch_size": 128,
        "epochs": 10,
    },
    "lstm150": {"cell": CellConfig(kind="LSTM"), "optimizer": _DECAYED},
    "lstm150_peephole": {"cell": CellConfig(kind="LSTM", peephole=True), "optimizer": _DECAYED},
    "gru150": {"cell": CellConfig(kind="GRU"), "optimizer": _DECAYED},
    "embedded": {
        "cell": CellConfig(kind="GRU", output_dropout=0.2),
        "data": DataConfig(name="embedded"),
        "optimizer": OptimizerConfig(learning_rate=4e-3, schedule="cosine"),
        "batch_size": 100,
        "epochs": 15,
    },
}


def get_config(variant: str = "rnn150") -> Config:
    """Returns the config of a variant."""
    if variant not in _VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of configs/mnist.py; choose from {', '.join(_VARIANTS)}")
    fields = {"cell": CellConfig(hidden_size=150), "batch_size": 150, "epochs": 5, **_VARIANTS[variant]}
    return Config(**copy.deepcopy(fields))
