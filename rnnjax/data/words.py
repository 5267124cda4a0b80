"""Words as numbers: vocabulary by frequency, the distributions that word embeddings draw from, rows of text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rnnjax.data.vocabulary import UNKNOWN, by_frequency
from rnnjax.errors import DataError

NO_WORD = -1


class Vocabulary(NamedTuple):
    """Words, the most frequent first, and their ``counts [V]``."""

    words: tuple[str, ...]
    counts: np.ndarray


def tokenise(text: str) -> list[str]:
    """Returns the words of a text in lower case: letters, digits and underscores, hyphens and apostrophes within."""
    return re.findall(r"\w+(?:['\u2019-]\w+)*", text.lower())


def known_words(text: str) -> list[str]:
    """Returns the words of a prepared text, between white space, without the marks that stand for rare ones."""
    return [word for word in text.split() if word != UNKNOWN]


def build_vocabulary(tokens: Iterable[str], min_count: int = 1, max_size: int | None = None) -> Vocabulary:
    """Returns the words that occur at least `min_count` times, the `max_size` most frequent where it is given.

    Words of one frequency are in alphabetical order.

    Raises:
      DataError: if there are fewer than two.
    """
    counts = Counter(tokens)
    words = by_frequency(counts, min_count)[:max_size]
    if len(words) < 2:
        raise DataError(f"only {len(words)} words occur {min_count} times or more: give a longer text")
    return Vocabulary(tuple(words), np.array([counts[word] for word in words], np.int64))


def word_ids(tokens: Sequence[str], vocabulary: Vocabulary) -> Int[np.ndarray, " N"]:
    """Returns the places of the tokens in the vocabulary, without those that are not in it."""
    place = {word: i for i, word in enumerate(vocabulary.words)}
    return np.array([place[token] for token in tokens if token in place], np.int32)


def keep_probability(counts: Int[np.ndarray, " V"], threshold: float) -> Float[np.ndarray, " V"]:
    """Returns min(1, sqrt(threshold / frequency)): the subsampling of frequent words (Mikolov et al., 2013)."""
    return np.minimum(1, np.sqrt(threshold * counts.sum() / counts)).astype(np.float32)


def noise_bounds(counts: Int[np.ndarray, " V"], power: float = 0.75) -> Float[np.ndarray, " V"]:
    """Returns the cumulative distribution of the unigram frequencies raised to a power (Mikolov et al., 2013)."""
    weights = counts.astype(np.float64) ** power
    return (weights.cumsum() / weights.sum()).astype(np.float32)


def text_rows(ids: Int[np.ndarray, " N"], length: int) -> Int[np.ndarray, "R length"]:
    """Returns a text cut into rows; the last is filled with `NO_WORD`."""
    rows = np.full((-(-len(ids) // length), length), NO_WORD, np.int32)
    rows.flat[: len(ids)] = ids
    return rows
