"""Four clicked items in, the next one out.

    python -m rnnjax.train --config configs/navigation.py[:variant]

Ours is the mean of three seeds, time that of a whole run on cores of an AMD EPYC that others shared; both are in
docs/results.md. On a GPU: not measured.

| variant | source's figure | ours | time |
|---|---|---|---|
| source800, 320 full-batch steps | training accuracy 0.99875, test 0.025 | 0.99875 (0.9975 to 1.0), test 0.025 | 19 s |
| all, 12 epochs | none | test recall@20 0.628, MRR@20 0.330 | 51 s |
| embedded, 12 epochs | none | test MRR@20 0.732 (0.730 to 0.733) | 27 s |

Baselines on the same test windows, which every run writes beside its own figures (`popularity_recall_20`, ...):

| variant | most popular | the window's own items again | most frequent successors of the last |
|---|---|---|---|
| source800, recall@20, MRR@20 | 0.085, 0.019 | 0.230, 0.161 | 0.170, 0.090 |
| all, recall@20, MRR@20 | 0.060, 0.011 | 0.394, 0.316 | 0.529, 0.303 |
| embedded, recall@20, MRR@20 | 0.407, 0.088 | 0.382, 0.054 | 0.845, 0.595 |

`source800` is the source's experiment on the first 800 windows in time: an LSTM with 100 units on one-hot items learns
them by heart, and has learnt little else: every baseline but popularity finds more of the items that come. Which 800
windows the source took is not known. Here windows with the same four items as an earlier one are left out, because
among the first 800 some contradict each other, and no model can be right on more than 0.99125 of them. Test figures
are of the last step.

`all` takes all 21,659 windows of the sample, 17,333 of them for training, with one vector an item for reading and
scoring. With one-hot items and a dense layer, as in `source800`, it stayed behind the baselines (recall@20 0.464,
MRR@20 0.189 after 10 epochs, output dropout 0.5). In `embedded` the last two items say what comes next, with
probability 0.8; who looks at the last alone is right one time in five.
"""

from typing import Any

from rnnjax.config import CellConfig, DataConfig, OptimizerConfig
from rnnjax.tasks.navigation import Config


def _next_item(**fields: Any) -> Config:
    common: dict[str, Any] = {"cell": CellConfig(kind="LSTM", hidden_size=100)}
    return Config(**(common | fields))


VARIANTS = {
    "source800": _next_item(
        windows=800,
        distinct=True,
        batch_size=800,
        epochs=320,
        evaluate_every=40,
        log_every=1,
    ),
    "all": _next_item(
        embedding=100,
        dropout=0.6,
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine"),
        batch_size=128,
        epochs=12,
    ),
    "embedded": _next_item(
        cell=CellConfig(kind="LSTM", hidden_size=100, dropout={"output_rate": 0.3}),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine"),
        data=DataConfig(name="embedded"),
        batch_size=128,
        epochs=12,
    ),
}
DEFAULT = "all"
