"""draft"""

import copy

from rnnjax.config import CellConfig
from rnnjax.tasks.sequences import Config

VARIANTS = {
    "parity": {},
}


def get_config(variant: str = "parity") -> Config:
    """Returns the config of a variant."""
    fields = {"cell": CellConfig(kind="LSTM", hidden_size=32), **VARIANTS[variant]}
    return Config(**copy.deepcopy(fields))
