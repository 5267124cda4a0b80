"""Configs of the toy task, as a file for the commands."""

from rnnjax.config import CellConfig, OptimizerConfig, ParallelConfig
from toytasks import slow
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
        ),
        # 2 steps.
        "short": Config(epochs=1, examples=16, batch_size=8, cell=CellConfig(hidden_size=4)),
        # 6 steps, 3 an epoch, and 3 batches to evaluate.
        "slow": slow.Config(
            epochs=2,
            examples=24,
            batch_size=8,
            log_every=2,
            call_seconds=1e-9,
            cell=CellConfig(hidden_size=4),
            parallel=ParallelConfig(batch="1"),
        ),
    }[variant]
