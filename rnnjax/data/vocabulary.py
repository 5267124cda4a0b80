"""Vocabularies of characters and of words: text to numbers and back."""

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


class Vocabulary(Protocol):
    """Tokens by number.

    Attributes:
      size: number V of tokens.
      start: the token that stands before the first one of a text: the end of a line.
    """

    @property
    def size(self) -> int: ...

    @property
    def start(self) -> int: ...

    def encode(self, text: str) -> Int[np.ndarray, " N"]:
        """Returns the tokens of a text."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text that tokens stand for."""
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
        known, given = _code_points(self.characters), _code_points(text)
        tokens = np.minimum(np.searchsorted(known, given), self.size - 1)
        unknown = np.flatnonzero(known[tokens] != given)
        if unknown.size:
            raise ValueError(f"the character {text[unknown[0]]!r} is not in the text that the model learns from")
        return tokens.astype(np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.characters[token] for token in tokens)


def _code_points(text: str) -> np.ndarray:
    # What a terminal passes on may hold surrogates, which no text has.
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

        Where the text has no `<unk>` of its own, words that it has only once are left out, so that a model of it
        learns what an unknown word is like.
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
    """Returns the words of a text, each line feed becoming `<eos>` (Mikolov et al., 2010)."""
    return text.replace("\n", f" {END} ").split()


def by_frequency(counts: Mapping[str, int], least: int) -> list[str]:
    """Returns the words that occur so often at least, the most frequent first, equals in alphabetical order."""
    return sorted((word for word in counts if counts[word] >= least), key=lambda word: (-counts[word], word))
