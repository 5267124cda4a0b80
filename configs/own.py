"""Data of your own, without code.

    python -m rnnjax.train --config configs/own.py:classify --config.data.path=FILE_OR_FOLDER
    python -m rnnjax.train --config configs/own.py:forecast --config.data.path=series.csv --config.horizon=24

| variant | what | data |
|---|---|---|
| classify (default) | a class for a sequence | csv in long form (id, time, features, label); npz or npy `[N, T, I]` |
| tag | a class at every step | the same, with labels `[N, T]` or one a row |
| forecast | the next steps of a series | csv with a column for each variable |
| text | a language model | a text file, or a folder with train.txt, valid.txt and test.txt |
| pairs | translation | a file with a source, a tab and a target in every line |
| sessions | the next item | clicks: session, time, item; or rows of items `NAME_x.txt` and the next ones `NAME_y.txt` |

docs/guide/16-your-own-data.md has the forms of files and what is done about missing values; `--help` lists all fields.
What to change first: `--config.cell.hidden_size`, `--config.epochs`, `--config.batch_size` (at most the number of
training examples), `--config.optimizer.learning_rate`. Figures depend on the data: every run of `forecast` and
`sessions` writes those of baselines beside its own.
"""

from rnnjax.config import CellConfig, DataConfig, OptimizerConfig
from rnnjax.tasks import classify, forecast, language_model, navigation, tag, translate

_DECAYED = OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip_norm=1.0)
_GRU = {"cell": CellConfig(kind="GRU", hidden_size=64), "optimizer": _DECAYED, "batch_size": 32}

VARIANTS = {
    "classify": classify.Config(**_GRU, epochs=50),
    "tag": tag.Config(**_GRU, epochs=50),
    "forecast": forecast.Config(**_GRU, epochs=20),
    "text": language_model.Config(
        data=language_model.TextConfig(name="text"),
        cell=CellConfig(kind="GRU", hidden_size=256),
        embedding_size=64,
        output_dropout=0.2,
        window=64,
        batch_size=32,
        epochs=6,
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine", clip_norm=1.0),
    ),
    "pairs": translate.Config(
        data=DataConfig(name="tsv"),
        vocabulary=translate.VocabularyConfig(kind="bpe", source_size=4000, target_size=4000),
        cell=CellConfig(kind="GRU", hidden_size=128, dropout={"input_rate": 0.1, "output_rate": 0.1}),
        embedding_size=64,
        batch_size=64,
        max_buckets=6,
        epochs=10,
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine", clip_norm=1.0),
    ),
    "sessions": navigation.Config(
        data=DataConfig(name="sessions"),
        cell=CellConfig(kind="LSTM", hidden_size=100),
        embedding=100,
        dropout=0.5,
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine"),
        batch_size=128,
        epochs=12,
    ),
}
DEFAULT = "classify"
