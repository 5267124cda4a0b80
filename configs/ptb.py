"""The Penn Treebank, word by word: the two-layer LSTMs of Zaremba, Sutskever and Vinyals (2014), 10,000 words.

    python -m rnnjax.train --config configs/ptb.py[:variant]
    python -m rnnjax.train --config configs/ptb.py --config.data.name=text --config.data.path=FILE_OR_FOLDER
    python -m rnnjax.generate DIR --prompt "the company" --length 50 --temperature 0.8

The data is read from `--config.data.path` or RNNJAX_DATA (files `ptb.train.txt`, `ptb.valid.txt`, `ptb.test.txt`); that
of `embedded` are the help topics of CPython.

| variant | source's test perplexity | TensorFlow's rerun | ours | time on a CPU (AMD EPYC) | on a GPU |
|---|---|---|---|---|---|
| small, 13 epochs | 114.5 | 115.91 | 113.05, one seed | 69 min, one shared core | not measured |
| medium, 39 epochs | 82.7 | 82.07 | not measured | not measured | not measured |
| large, 55 epochs | 78.4 | 78.29 | not measured | not measured | not measured |
| embedded, 6 epochs | none | none | 87.42, one seed | 215 s, one shared core | not measured |

Dropout is where the source has it, between layers and never in time: on the inputs of every layer and on the outputs
of the last. Every parameter starts uniform within plus and minus `init_scale`, biases included.

The source's loss is the sum over the T steps of a window, averaged over the batch; ours is the mean over all tokens, so
that its gradient is T times smaller. The source's update, learning rate r and gradients clipped to norm c, is therefore
exactly learning rate r T with clip norm c / T here, and written so below: with another `window`, change both.

Evaluation counts every token of a split once. The 20 lanes that it is read in each see one window of the text before
them first; the source reads the test text in one piece.
"""

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.language_model import Config, TextConfig


def _zaremba(
    hidden_size: int,
    window: int,
    epochs: int,
    dropout: float,
    scale: float,
    clip: float,
    after: int,
    decay: float,
    text: str = "ptb",
) -> Config:
    between_layers = {"dropout": {"input_rate": dropout}} if dropout else {}
    return Config(
        data=TextConfig(name=text, tokens="words", vocabulary_size=10_000),
        cell=CellConfig(kind="LSTM", hidden_size=hidden_size, layers=2, **between_layers),
        embedding_size=hidden_size,
        output_dropout=dropout,
        init_scale=scale,
        window=window,
        batch_size=20,
        epochs=epochs,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=1.0 * window,
            clip_norm=clip / window,
            schedule="staircase",
            decay_after=after,
            decay_rate=decay,
        ),
        log_every=100,
    )


VARIANTS = {
    "small": _zaremba(200, window=20, epochs=13, dropout=0.0, scale=0.1, clip=5, after=4, decay=0.5),
    "medium": _zaremba(650, window=35, epochs=39, dropout=0.5, scale=0.05, clip=5, after=6, decay=0.8),
    "large": _zaremba(1500, window=35, epochs=55, dropout=0.65, scale=0.04, clip=10, after=14, decay=1 / 1.15),
    "embedded": _zaremba(200, 20, epochs=6, dropout=0.0, scale=0.1, clip=5, after=4, decay=0.5, text="embedded"),
}
DEFAULT = "small"
