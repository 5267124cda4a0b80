"""Words as numbers: word counts, the distributions that skip-gram samples from, and rows of text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rnnjax.data.vocabulary import UNKNOWN, by_frequency
from rnnjax.errors import DataError

NO_WORD = -1


class WordCounts(NamedTuple):
    """Words, the most frequent first, and their ``counts [V]``."""

    words: tuple[str, ...]
    counts: Int[np.ndarray, " V"]


def tokenise(text: str) -> list[str]:
    """Returns the words of a text in lower case: letters, digits and underscores, hyphens and apostrophes within."""
    return re.findall(r"\w+(?:['\u2019-]\w+)*", text.lower())


def known_words(text: str) -> list[str]:
    """Returns the words of a tokenised text, without the marks that replace rare words."""
    return [word for word in text.split() if word != UNKNOWN]


def count_words(tokens: Iterable[str], min_count: int = 1, max_size: int | None = None) -> WordCounts:
    """Returns the words that occur at least `min_count` times with their counts, at most the `max_size` most frequent.

    Words of the same frequency are in alphabetical order.

    Raises:
      DataError: if there are fewer than two.
    """
    counts = Counter(tokens)
    words = by_frequency(counts, min_count)[:max_size]
    if len(words) < 2:
        raise DataError(f"only {len(words)} words occur {min_count} times or more: give a longer text")
    return WordCounts(tuple(words), np.array([counts[word] for word in words], np.int64))


def word_ids(tokens: Sequence[str], vocabulary: WordCounts) -> Int[np.ndarray, " N"]:
    """Returns the numbers of the tokens in a vocabulary, leaving out tokens that are not in it."""
    ids = {word: number for number, word in enumerate(vocabulary.words)}
    return np.array([ids[token] for token in tokens if token in ids], np.int32)


def keep_probability(counts: Int[np.ndarray, " V"], threshold: float) -> Float[np.ndarray, " V"]:
    """Returns min(1, sqrt(threshold / frequency)): the subsampling of frequent words (Mikolov et al., 2013)."""
    return np.minimum(1, np.sqrt(threshold * counts.sum() / counts)).astype(np.float32)


def noise_bounds(counts: Int[np.ndarray, " V"], power: float = 0.75) -> Float[np.ndarray, " V"]:
    """Returns the cumulative distribution of the unigram frequencies raised to a power (Mikolov et al., 2013)."""
    weights = counts.astype(np.float64) ** power
    return (weights.cumsum() / weights.sum()).astype(np.float32)


def text_rows(ids: Int[np.ndarray, " N"], length: int) -> Int[np.ndarray, "R length"]:
    """Returns a text cut into rows; the last one is padded with `NO_WORD`."""
    rows = np.full((math.ceil(len(ids) / length), length), NO_WORD, np.int32)
    rows.flat[: len(ids)] = ids
    return rows
