"""MNIST read row by row, 28 steps of 28 pixels, or pixel by pixel, 784 steps of one, classified after the last.

    python -m rnnjax.train --config configs/mnist.py[:variant]

Ours is the mean of three seeds, time that of a whole run on 2 CPU cores (AMD EPYC); both are in docs/results.md,
written with versions by `python -m rnnjax.reproduce`. Without a time the machine did other work. On a GPU: not
measured.

| variant | source's figure | ours | time |
|---|---|---|---|
| rnn150, 5 epochs | validation 0.9730; rerun 0.9622 to 0.9640 | validation 0.9643 | 27 s |
| rnn31, 10 epochs | training loss 0.302; rerun: validation 0.8914 | 0.289; validation 0.9173 | 18 s |
| rnn31x3, 10 epochs | training loss 0.167; rerun: validation 0.9606 | 0.098; validation 0.9695 | 25 s |
| lstm150, 5 epochs | none | test 0.9846 | 143 s |
| gru150, 5 epochs | none | test 0.9861 | 75 s |
| embedded, 15 epochs | none | test 0.9607 | 26 s |
| lstm150_peephole, 5 epochs | none | test 0.9836 | |
| rnn128, 30 epochs | none | test 0.9749 | |
| rnn150_long, 100 epochs | none | validation 0.9733, test 0.9733 | |
| pixel_gru256, permuted_gru256, 50 epochs | test 0.991, 0.941 (LSTM 0.988, 0.929) | not measured | for an accelerator |
| pixel_lru, permuted_lru, 50 epochs | test 0.996, 0.987 (S5-class) | not measured | for an accelerator |
| pixel_lru_short, 2 epochs, one seed | none | test 0.9624 | |
| permuted_lru_short, 2 epochs, one seed | none | test 0.8163 | |

The order of the pixels in `permuted_` variants is that of seed 0: ``np.random.RandomState(0).permutation(784)``.
Those of LRU are stacks of the paper's blocks (Orvieto et al., 2023), of whose outputs the mean is classified; `_short`
ones are narrower.

The variants of one basic layer are the source's: Adam 1e-3 throughout. The others start at 2e-3 (`embedded`: 4e-3) and
decay to zero along a cosine, without which their last epoch is often not their best.
"""

from typing import Any

from rnnjax.config import CellConfig, DataConfig, OptimizerConfig
from rnnjax.tasks.mnist import Config

_DECAYED = OptimizerConfig(learning_rate=2e-3, schedule="cosine")

_PIXELS = {"pixels": True, "batch_size": 100, "epochs": 50}
_PERMUTED = {**_PIXELS, "permutation": 0}

_GRU = {
    "cell": CellConfig(kind="GRU", hidden_size=256),
    "optimizer": OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip_norm=1.0),
}


def _lru(hidden_size: int, layers: int) -> dict[str, Any]:
    ring = {"smallest_radius": 0.9, "largest_radius": 0.999, "largest_phase": 0.314}
    return {
        "cell": CellConfig("LRU", layers, ["gated_residual"], hidden_size=hidden_size, **ring),
        "optimizer": OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0),
        "pooled": True,
    }


def _classifier(**fields: Any) -> Config:
    common: dict[str, Any] = {"cell": CellConfig(hidden_size=150), "batch_size": 150, "epochs": 5}
    return Config(**(common | fields))


VARIANTS = {
    "rnn150": _classifier(),
    "rnn150_long": _classifier(epochs=100),
    "rnn128": _classifier(cell=CellConfig(hidden_size=128), batch_size=128, epochs=30),
    "rnn31": _classifier(cell=CellConfig(hidden_size=31), batch_size=128, epochs=10),
    "rnn31x3": _classifier(
        cell=CellConfig(hidden_size=31, layers=3),
        optimizer=_DECAYED,
        batch_size=128,
        epochs=10,
    ),
    "lstm150": _classifier(cell=CellConfig(kind="LSTM"), optimizer=_DECAYED),
    "lstm150_peephole": _classifier(cell=CellConfig(kind="LSTM", peephole=True), optimizer=_DECAYED),
    "gru150": _classifier(cell=CellConfig(kind="GRU"), optimizer=_DECAYED),
    "embedded": _classifier(
        cell=CellConfig(kind="GRU", dropout={"output_rate": 0.2}),
        data=DataConfig(name="embedded"),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine"),
        batch_size=100,
        epochs=15,
    ),
    "pixel_gru256": _classifier(**_PIXELS, **_GRU),
    "pixel_lru": _classifier(**_PIXELS, **_lru(128, 4)),
    "pixel_lru_short": _classifier(**(_PIXELS | _lru(32, 2) | {"epochs": 2})),
    "permuted_gru256": _classifier(**_PERMUTED, **_GRU),
    "permuted_lru": _classifier(**_PERMUTED, **_lru(128, 4)),
    "permuted_lru_short": _classifier(**(_PERMUTED | _lru(32, 2) | {"epochs": 2})),
}
DEFAULT = "rnn150"
