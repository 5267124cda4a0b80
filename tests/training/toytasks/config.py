"""Configs of the toy task, as a file for the commands."""

from rnnjax.config import CellConfig, OptimizerConfig, ParallelConfig
from toytasks.sign import Config


def get_config(variant: str = "long") -> Config:
    return {
        # 80 steps, 2 an epoch: long enough to be stopped on the way.
        "long": Config(
            epochs=40,
            examples=16,
            batch_size=8,
            cell=CellConfig(hidden_size=4),
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
            parallel=ParallelConfig(batch="1"),
        )
    }[variant]
