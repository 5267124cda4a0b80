"""hihell -> ihello: six characters, each one-hot of five, and after each of them the next.

    python -m rnnjax.train --config configs/hihello.py[:variant]
    python -m rnnjax.generate DIR

The source, the classic course's first character model, asks for all six characters right. Ours is the step from which
on they are, mean and range of five seeds; time is that of a whole run of 100 steps on one CPU core (AMD EPYC). On a
GPU: not measured.

| variant | source's figure | ours | time |
|---|---|---|---|
| basic | all six right within 100 steps | from step 4.6 (2 to 6) on | 7 s |
| lstm | all six right within 100 steps | from step 7.2 (6 to 9) on | 9 s |
| gru | all six right within 100 steps | from step 5.8 (5 to 7) on | 8 s |
"""

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.hihello import Config


def _of(kind: str) -> Config:
    return Config(
        cell=CellConfig(kind=kind, hidden_size=10),
        optimizer=OptimizerConfig(learning_rate=0.1),
        batch_size=1,
        epochs=100,
        evaluate_every=50,
        log_every=1,
    )


VARIANTS = {"basic": _of("BasicRNN"), "lstm": _of("LSTM"), "gru": _of("GRU")}
DEFAULT = "lstm"
