"""Tiny Shakespeare, character by character.

    python -m rnnjax.train --config configs/char_lm.py[:variant]
    python -m rnnjax.train --config configs/char_lm.py --config.data.name=text --config.data.path=FILE_OR_FOLDER
    python -m rnnjax.generate DIR --prompt "ROMEO:" --length 500 --temperature 0.8 --top-p 0.95

The data is read from `--config.data.path` or RNNJAX_DATA (`tinyshakespeare/input.txt`), or downloaded. Losses are nats
a character.

| variant | others' validation loss | ours | time |
|---|---|---|---|
| lstm, 2 layers of 512 | minGRU 1.548, 6-layer transformer 1.4697 | not measured | for an accelerator |
| gru, 2 layers of 512 | the same | not measured | for an accelerator |
| cpu, 1 GRU layer of 256, 6 epochs | none; to reach: 1.75 | 1.694 (test 1.554), one seed | 110 s on 2 CPU cores |
| embedded, the help topics of CPython | none | 1.287 (test 1.337), one seed | 115 s on a shared one |

Validation is the last tenth of the text (111,540 characters), as in the figures of others. The test split is the 5%
before it, which they train on and we do not: training has the first 85%.
"""

from typing import Any

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.language_model import Config, TextConfig


def _large(kind: str) -> Config:
    return Config(
        cell=CellConfig(kind=kind, hidden_size=512, layers=2, dropout={"input_rate": 0.2, "variational": False}),
        output_dropout=0.5,
        embedding_size=128,
        window=128,
        batch_size=64,
        epochs=40,
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", clip_norm=1.0),
    )


def _small(**fields: Any) -> Config:
    return Config(
        cell=CellConfig(kind="GRU", hidden_size=256),
        embedding_size=64,
        output_dropout=0.2,
        window=64,
        batch_size=64,
        epochs=6,
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine", clip_norm=1.0),
        **fields,
    )


VARIANTS = {
    "lstm": _large("LSTM"),
    "gru": _large("GRU"),
    "cpu": _small(),
    "embedded": _small(data=TextConfig(name="embedded")),
}
DEFAULT = "lstm"
