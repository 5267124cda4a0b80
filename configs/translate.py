"""Translation by an encoder-decoder: dates, and three pairs of languages.

    python -m rnnjax.train --config configs/translate.py[:variant]
    echo "le 14 juillet 1989" | python -m rnnjax.generate DIR

`dates` is generated and needs no data; the others read `multi30k/` or `tatoeba/` in RNNJAX_DATA or
`--config.data.path`; `--config.data.name=tsv --config.data.path=FILE` takes pairs of one's own. BLEU is sacrebleu's, of
Multi30k as it stands (in tokens and in lower case, `tokenize="none"`), as the published figures are.

Ours is the mean of three seeds; time is that of a whole run on one CPU core (AMD EPYC) that others shared. On a GPU:
not measured.

| variant | source's figure | ours | time |
|---|---|---|---|
| dates (default; also `embedded`) | none | test exact match 1.0000 | 66 s |
| tatoeba_en_fr, tatoeba_en_ko | none | not measured | |
| multi30k_de_en (attention, GRU 512) | test BLEU 28.3 | not measured | |
| multi30k_de_en_small (attention, GRU 128) | test BLEU 28.3 | test BLEU 33.4 | |
| multi30k_de_en_gru (no attention; context) | test BLEU 20.6 | not measured | |
| multi30k_de_en_small_gru (the same, GRU 256) | test BLEU 20.6 | not measured | |
| multi30k_de_en_lstm (no attention, source reversed) | test BLEU 13.8 | not measured | |
"""

from typing import Any

from rnnjax.config import CellConfig, DataConfig, OptimizerConfig
from rnnjax.tasks.translate import Config, SamplingConfig, VocabularyConfig

_DATES = {
    "data": DataConfig(name="dates"),
    "vocabulary": VocabularyConfig(kind="char", source_size=200, target_size=200),
    "cell": CellConfig(kind="GRU", hidden_size=64),
    "optimizer": OptimizerConfig(learning_rate=4e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0),
    "embedding_size": 32,
    "max_length": 48,
    "epochs": 5,
}
_MULTI30K = {
    "data": DataConfig(name="multi30k_de_en"),
    "vocabulary": VocabularyConfig(kind="bpe", source_size=8000, target_size=8000),
    "cell": CellConfig(kind="GRU", hidden_size=512, dropout={"input_rate": 0.3, "output_rate": 0.3}),
    "optimizer": OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=500, clip_norm=1.0),
    "embedding_size": 256,
    "max_length": 40,
    "label_smoothing": 0.1,
    "beam_size": 5,
    "epochs": 20,
}
_SMALL = {
    "vocabulary": VocabularyConfig(kind="bpe", source_size=4000, target_size=4000),
    "cell": CellConfig(kind="GRU", hidden_size=128, dropout={"input_rate": 0.1, "output_rate": 0.1}),
    "optimizer": OptimizerConfig(learning_rate=4e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0),
    "embedding_size": 64,
    "epochs": 8,
}
_TATOEBA = _MULTI30K | {
    "cell": CellConfig(kind="GRU", hidden_size=512, dropout={"output_rate": 0.2}),
    "score": "general",
}

_FIELDS: dict[str, dict[str, Any]] = {
    "dates": _DATES,
    "tatoeba_en_fr": _TATOEBA | {"data": DataConfig(name="tatoeba_en_fr"), "attention": "luong", "epochs": 10},
    "tatoeba_en_ko": _TATOEBA
    | {
        "data": DataConfig(name="tatoeba_en_ko"),
        "vocabulary": VocabularyConfig(kind="bpe", source_size=3000, target_size=3000),
        "cell": CellConfig(kind="GRU", hidden_size=256, dropout={"input_rate": 0.3, "output_rate": 0.3}),
        "attention": "luong",
        "sampling": SamplingConfig(probability=0.2, ramp_steps=1000),
        "batch_size": 64,
        "max_length": 30,
        "epochs": 40,
    },
    "multi30k_de_en": _MULTI30K,
    "multi30k_de_en_small": _MULTI30K | _SMALL,
    "multi30k_de_en_small_gru": _MULTI30K
    | _SMALL
    | {
        "cell": CellConfig(kind="GRU", hidden_size=256, dropout={"input_rate": 0.2, "output_rate": 0.2}),
        "optimizer": OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0),
        "attention": "none",
        "context": True,
        "embedding_size": 128,
        "epochs": 12,
    },
    "multi30k_de_en_gru": _MULTI30K | {"attention": "none", "context": True},
    "multi30k_de_en_lstm": _MULTI30K
    | {
        "cell": CellConfig(kind="LSTM", hidden_size=512, layers=2, dropout={"input_rate": 0.3, "output_rate": 0.3}),
        "attention": "none",
        "bidirectional": False,
        "reverse_source": True,
    },
    "embedded": _DATES,
}

VARIANTS = {name: Config(**fields) for name, fields in _FIELDS.items()}
DEFAULT = "dates"
