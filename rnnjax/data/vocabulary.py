"""Vocabularies of characters and of words, which map text to tokens and back."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Int

END, UNKNOWN = "<eos>", "<unk>"


class TextVocabulary(Protocol):
    """The contract of a vocabulary: text to tokens and back.

    Attributes:
      size: number V of tokens.
      start: the token that a text is read after: the end of a line.
    """

    @property
    def size(self) -> int: ...

    @property
    def start(self) -> int: ...

    def encode(self, text: str) -> Int[np.ndarray, " N"]:
        """Returns the tokens of a text."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of some tokens."""
        ...


@dataclasses.dataclass(frozen=True)
class CharacterVocabulary:
    """The characters of some text, numbered in the order of their code points.

    Attributes:
      characters: each once, sorted.
    """

    characters: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> CharacterVocabulary:
        """Returns the vocabulary of all characters of some texts."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def size(self) -> int:
        return len(self.characters)

    @property
    def start(self) -> int:
        """The line feed; the first character where the text has only one line."""
        return max(self.characters.find("\n"), 0)

    def encode(self, text: str) -> Int[np.ndarray, " N"]:
        """Returns the number of each character.

        Raises:
          ValueError: for a character that is not in the vocabulary.
        """
        known, characters = _code_points(self.characters), _code_points(text)
        tokens = np.minimum(np.searchsorted(known, characters), self.size - 1)
        unknown = np.flatnonzero(known[tokens] != characters)
        if unknown.size:
            raise ValueError(f"the character {text[unknown[0]]!r} is not in the text that the model learns from")
        return tokens.astype(np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.characters[token] for token in tokens)


def _code_points(text: str) -> np.ndarray:
    # Text from a terminal may contain surrogates, which UTF-32 cannot encode otherwise.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@dataclasses.dataclass(frozen=True)
class WordVocabulary:
    """Words between white space, with `<eos>` for the end of a line and `<unk>` for every other word.

    Attributes:
      words: by number; `<eos>` and `<unk>` are the first two.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str, size: int) -> WordVocabulary:
        """Returns the `size` most frequent words of a text, the two special ones included.

        If the text itself contains no `<unk>`, words that occur only once are left out, so that a model learns to
        predict unknown words.
        """
        counts = collections.Counter(split_words(text))
        frequent = by_frequency(counts, least=1 if UNKNOWN in counts else 2)
        words = [word for word in frequent if word not in (END, UNKNOWN)]
        return cls((END, UNKNOWN, *words[: size - 2]))

    @property
    def size(self) -> int:
        return len(self.words)

    @property
    def start(self) -> int:
        return 0

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, text: str) -> Int[np.ndarray, " N"]:
        unknown = self._numbers[UNKNOWN]
        return np.array([self._numbers.get(word, unknown) for word in split_words(text)], np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        return re.sub(f" ?{END} ?", "\n", " ".join(self.words[token] for token in tokens))


def split_words(text: str) -> list[str]:
    """Returns the words of a text, with `<eos>` for every line feed (Mikolov et al., 2010)."""
    return text.replace("\n", f" {END} ").split()


def by_frequency(counts: Mapping[str, int], least: int) -> list[str]:
    """Returns the words that occur at least `least` times, by descending frequency, then alphabetically."""
    return sorted((word for word in counts if counts[word] >= least), key=lambda word: (-counts[word], word))
