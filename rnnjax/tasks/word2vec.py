"""Learns word vectors from a text: skip-gram with negative sampling."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.config import DataConfig, TrainConfig, check_source
from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.data.text import Cuts, Texts, load_embedded_text, load_own_text, load_ptb
from rnnjax.data.word_vectors import write_word_vectors
from rnnjax.data.words import (
    WordCounts,
    count_words,
    keep_probability,
    known_words,
    noise_bounds,
    text_rows,
    tokenise,
    word_ids,
)
from rnnjax.errors import ConfigError, DataError, require
from rnnjax.models.skip_gram import SkipGram, draw
from rnnjax.models.word_neighbours import class_precision, nearest, principal_plane
from rnnjax.tasks import task
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Weighted
from rnnjax.tasks.word_plots import plot_words

_CORPORA = ("ptb", "text", "embedded")

# Classes of similar English words, which good vectors place near each other.
_CLASSES = (
    "monday tuesday wednesday thursday friday saturday sunday",
    "january february march april may june july august september october november december",
    "one two three four five six seven eight nine ten eleven twelve",
    "japan germany france italy spain canada mexico brazil britain china australia switzerland",
    "mr. mrs. ms. sir",
    "he she it they we you i",
    "million billion trillion",
    "first second third fourth fifth",
    "year month week day quarter decade",
)
_PLOTTED = 150
_LONGEST = 10_000  # memory grows with the square of a row's length

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task: `data.name` is "ptb", "text" for a text file at `data.path`, or "embedded".

    Attributes:
      size: numbers in a vector.
      window: most words on each side of a centre that belong to its context.
      negatives: number of negative samples that each context word counts against.
      noise: number of noise words drawn for a row of text, shared by its centres.
      subsample: frequency above which words are subsampled; 0 keeps all.
      min_count: words that occur less often are removed from the text.
      row_length: words in a row of text; contexts do not extend beyond a row.
      probes: words, separated by commas, whose nearest neighbours are shown.
    """

    task: str = "word2vec"
    size: int = 100
    window: int = 5
    negatives: int = 5
    noise: int = 64
    subsample: float = 1e-4
    min_count: int = 5
    row_length: int = 64
    probes: str = ""
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="ptb"))

    def check(self) -> None:
        super().check()
        made = "embedded", "the embedded text comes with Python"
        check_source(self.data, _CORPORA, made=made, own=("text", "texts"))
        for name in ("size", "window", "negatives", "noise", "min_count"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(2 <= self.row_length <= _LONGEST, f"row_length must be from 2 to {_LONGEST}, got {self.row_length}")
        for name in ("window", "noise"):
            require(getattr(self, name) <= _LONGEST, f"{name} must be at most {_LONGEST}, got {getattr(self, name)}")
        require(self.subsample >= 0, f"subsample must not be negative, got {self.subsample}")


class Task(task.Task):
    """Rows of text, in which every word predicts those around it; `predict` returns the vectors of words by number.

    `loss` is the mean over pairs of a centre and a context word. In evaluation, the same noise, windows and subsampling
    are drawn every time.

    Its data raises `DataError` as the loaders in `rnnjax.data.text` do, or if a split has no row.
    """

    config: Config
    best_metric, higher_is_better = "loss", False

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        vocabulary = kept_words(self.kept)
        self.words = vocabulary.words
        self.model = SkipGram(len(self.words), config.size, config.negatives)
        self.inputs = {"words": Field(("B",), "int32", len(self.words))}
        # Infinity keeps all words, since none is more frequent.
        self.keep = keep_probability(vocabulary.counts, config.subsample or np.inf)
        self.bounds = noise_bounds(vocabulary.counts)

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        data, vocabulary = load(config, kept_words(kept) if kept else None)
        kept = {"words": list(vocabulary.words), "counts": vocabulary.counts.tolist()}
        return dataclasses.replace(data, kept=kept)

    def init(self, key: PRNGKeyArray) -> Any:
        empty = {"row": jnp.zeros(1, jnp.int32), "text": jnp.zeros((1, self.config.row_length), jnp.int32)}
        return self.model.init(key, self._drawn(key, empty))

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        # The same key in every evaluation, whose losses can then be compared.
        drawn = self._drawn(jax.random.key(0) if key is None else key, batch)
        apply: Any = self.model.apply
        loss, pairs = apply(params, drawn)
        return {"loss": Weighted(loss / jnp.maximum(pairs, 1), pairs)}, carry

    def _drawn(self, key: PRNGKeyArray, batch: Batch) -> Any:
        """Returns the pairs of rows of text, by row: what is drawn depends neither on the batch nor on the devices."""
        sizes = {"window": self.config.window, "noise": self.config.noise}

        def of_row(row: Any, text: Any) -> Any:
            row_key = jax.random.fold_in(key, row)
            return draw(row_key, text, jnp.asarray(self.keep), jnp.asarray(self.bounds), **sizes)

        return jax.vmap(of_row)(batch["row"], batch["text"])

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B D"]:
        return jnp.asarray(params["params"]["centre"])[inputs["words"]]

    def scores(self, params: Any, split: str) -> dict[str, float]:
        precision = class_precision(word_vectors(params), self.words, [names.split() for names in _CLASSES])
        return {} if precision is None else {"class_precision": precision}

    def plots(self, params: Any, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        vectors, words = word_vectors(params), self.words
        write_word_vectors(directory / "vectors.txt", words, vectors)
        lines = [neighbour_line(probe, vectors, words) for probe in probes(self.config, words)]
        (directory / "neighbours.txt").write_text("\n".join(lines) + "\n", "utf-8")
        for line in lines:
            _log.info("nearest to %s", line)
        shown = slice(0, _PLOTTED)
        plot_words(principal_plane(vectors[shown]), words[shown], directory / "words.png")

    def generate(self, params: Any, *, prompt: str | None = None, lines: Iterable[str] = ()) -> Iterator[str]:
        vectors = word_vectors(params)
        for line in lines if prompt is None else [prompt]:
            yield neighbour_line(line, vectors, self.words)


def kept_words(kept: Kept) -> WordCounts:
    """Returns the words that a run has kept."""
    return WordCounts(tuple(kept["words"]), np.array(kept["counts"], np.int64))


def load(config: Config, vocabulary: WordCounts | None = None) -> tuple[DataSet, WordCounts]:
    """Returns rows of text, ``text [N, row_length]`` with their number ``row [N]``, and the vocabulary.

    Args:
      config: the config.
      vocabulary: if given, the words in place of those of the training split.
    """
    texts = load_texts(config.data)
    words = known_words if config.data.name == "ptb" else tokenise
    tokens = {split: words(text) for split, text in texts.splits.items()}
    total = sum(map(len, tokens.values()))
    if total < 100:
        raise DataError(f"{texts.source} has {total} words; give a text of 100 or more")
    vocabulary = vocabulary or count_words(tokens["train"], config.min_count)
    splits = {}
    for split in tokens:
        rows = text_rows(word_ids(tokens[split], vocabulary), config.row_length)
        if not len(rows):
            raise DataError(f"the {split} split of {texts.source} has no known words: give a longer text")
        splits[split] = {"text": rows, "row": np.arange(len(rows), dtype=np.int32)}
    return DataSet(config.data.name, splits, texts.source, content_checksum(splits)), vocabulary


def load_texts(config: DataConfig) -> Texts:
    """Returns the texts that the config names."""
    cuts = Cuts(validation=0.05, test=0.05, at_lines=True)
    if config.name == "embedded":
        return load_embedded_text(cuts)
    return load_ptb(config.path) if config.name == "ptb" else load_own_text(config.path or "", cuts)


def word_vectors(params: Any) -> Float[np.ndarray, "V D"]:
    """Returns the vectors of words as centres, which are the result of training."""
    return np.asarray(params["params"]["centre"])


def probes(config: Config, words: Sequence[str]) -> list[str]:
    """Returns the config's probes that are in the vocabulary, or ten words from the 100 most frequent on."""
    named = [word for word in config.probes.split(",") if word in words]
    return named or list(words[min(100, len(words) // 2) :][:10])


def neighbour_line(expression: str, vectors: Float[np.ndarray, "V D"], words: Sequence[str], count: int = 8) -> str:
    """Returns the words nearest to a word, or to a sum such as ``king - man + woman``, with cosine similarities.

    Args:
      expression: the word or the sum.
      vectors: of all words.
      words: in the order of their vectors.
      count: number of neighbours.

    Raises:
      ConfigError: for a word that is not in the vocabulary, or an expression that is not such a sum.
    """
    first, *rest = expression.lower().split() or [""]
    signs = {"+": 1.0, "-": -1.0}
    if len(rest) % 2 or any(sign not in signs for sign in rest[::2]):
        raise ConfigError(f"a line must be a word or a sum like king - man + woman, got {expression!r}")
    # Words and signs alternate: the first word has none.
    terms = [(1.0, first), *((signs[sign], word) for sign, word in zip(rest[::2], rest[1::2]))]
    unknown = [word for _, word in terms if word not in words]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is not one of the {len(words)} words; choose another")
    indices = [words.index(word) for _, word in terms]
    lengths = np.linalg.norm(vectors[indices], axis=1, keepdims=True)
    unit_vectors = vectors[indices] / np.maximum(lengths, 1e-12)
    signs_of_terms = np.array([[sign] for sign, _ in terms])
    neighbours, cosines = nearest(vectors, (signs_of_terms * unit_vectors).sum(0), count, indices)
    return f"{expression}: " + ", ".join(f"{words[i]} {cosine:.2f}" for i, cosine in zip(neighbours, cosines))
