"""Word vectors by skip-gram with negative sampling (Mikolov et al., 2013).

    python -m rnnjax.train --config configs/word2vec.py[:variant]
    python -m rnnjax.train --config configs/word2vec.py:text --config.data.path=my.txt

Ours is the mean and range of three seeds, time that of a whole run on one core of an AMD EPYC that others shared. On a
GPU: not measured. The loss is that of a pair of a centre and a context with 5 noise words (6 log 2 = 4.159 for vectors
that know nothing); it depends on `subsample` too, which says how many pairs are of frequent words. `class_precision` is
the mean share, over the words of nine closed classes (days, months, numbers, countries, ...), of a word's nearest words
that are of its class; it needs no test split, and was looked at when `subsample` was chosen.

| variant | source's figure | ours | time |
|---|---|---|---|
| ptb, 10 epochs | none | test loss 2.4657, class precision 0.274 (0.271 to 0.277) | 116 s |
| embedded, 30 epochs | none | test loss 2.5049, class precision 0.136 (0.091 to 0.182) | 36 s |
| text | none | not measured | |

A run leaves `plots/vectors.txt` (the text format of word2vec), `plots/neighbours.txt` and `plots/words.png`;
`python -m rnnjax.generate DIR --prompt monday` asks for neighbours, also of sums such as `king - man + woman`.
"""

from typing import Any

from rnnjax.config import DataConfig, OptimizerConfig
from rnnjax.tasks.word2vec import Config


def _vectors(**fields: Any) -> Config:
    common: dict[str, Any] = {
        "optimizer": OptimizerConfig(learning_rate=5e-3, schedule="linear"),
        "batch_size": 64,
        "subsample": 1e-3,
    }
    return Config(**(common | fields))


VARIANTS = {
    "ptb": _vectors(epochs=10, probes="monday,company,president,million,japan,he,bank,stock,good,court"),
    "text": _vectors(data=DataConfig(name="text"), subsample=1e-4, epochs=10),
    "embedded": _vectors(
        data=DataConfig(name="embedded"),
        batch_size=16,
        epochs=30,
        probes="class,list,integer,exception,true,x,object,string,statement,method",
    ),
}
DEFAULT = "ptb"
