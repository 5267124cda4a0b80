"""One step ahead in t*sin(t)/3 + 2*sin(5t) on [0, 30]: windows of 20 values 0.1 apart, each predicting the next.

    python -m rnnjax.train --config configs/time_series.py[:variant]
    python -m rnnjax.generate DIR [--prompt zeros|instance]

The series and the figures are those of the classic course (Géron, Hands-On Machine Learning, 2017, chapter 14). Ours
is the mean and standard deviation of five seeds, time that of a whole run on one CPU core (AMD EPYC, for
the last two shared with others); both are in docs/results.md. On a GPU: not measured.

| variant | source's figure | ours | time |
|---|---|---|---|
| stacked, 600 steps | training MSE 0.0629 at iteration 500 | 0.0599 ± 0.0016; test 0.0548 ± 0.0023 | 8 s |
| projected, 600 steps | training MSE 0.0594 at iteration 500 | 0.0589 ± 0.0047; test 0.0548 ± 0.0031 | 7 s |
| deep_dropout, 1,500 steps | MSE 14.5 at 1,200, dropout off | 15.8 ± 3.0 | 38 s |
| deep_dropout_sane, 1,500 steps | none | 0.102 ± 0.023 | 30 s |

The source reads one batch of one run, after its step. Of the first two variants, ours is the mean over the batches of
steps 451 to 550, before each step: the lines 500 and 550 of the log. Of the others it is the validation MSE at step
1,200, without dropout.

`stacked` and `projected` are the same function: a `Project` cell, too, makes the predictions of all steps at once.
`deep_dropout` keeps 0.3 of the inputs and of the state in each of three layers: so much noise that it predicts little
more than the mean (the series has variance 18). `deep_dropout_sane` keeps 0.9 of each layer's outputs, never drops the
only input or the state, and takes smaller steps.
"""

from typing import Any

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.time_series import Config

# A basic cell with the initial weights of TensorFlow 1, on which the figures of `deep_dropout` depend.
_LAYER = {"kind": "rnnjax.cells.joint:JointBasicRNN", "hidden_size": 100, "activation": "relu"}

# 1,500 steps, evaluated without dropout every 300.
_DEEP = {"windows": 15_000, "epochs": 5}


def _forecaster(**fields: Any) -> Config:
    common: dict[str, Any] = {"cell": CellConfig(**_LAYER), "batch_size": 50}
    return Config(**(common | fields))


VARIANTS = {
    "stacked": _forecaster(),
    "projected": _forecaster(project=True),
    "deep_dropout": _forecaster(
        cell=CellConfig(layers=3, dropout={"input_rate": 0.7, "state_rate": 0.7}, **_LAYER),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        **_DEEP,
    ),
    "deep_dropout_sane": _forecaster(cell=CellConfig(layers=3, dropout={"output_rate": 0.1}, **_LAYER), **_DEEP),
}
DEFAULT = "stacked"
