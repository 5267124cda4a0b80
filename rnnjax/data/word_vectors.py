"""Word vectors in the text format of word2vec: a line with V and D, then a line for each word and its D numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rnnjax.data.files import readable
from rnnjax.errors import DataError

_TOO_LONG = 2**31  # for a vector


def write_word_vectors(path: str | Path, words: Sequence[str], vectors: Float[np.ndarray, "V D"]) -> None:
    """Writes vectors, with as many digits as float32 holds.

    Raises:
      ValueError: if the numbers of words and vectors differ, or a word is empty, has white space or occurs twice.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(words):
        raise ValueError(f"vectors must have shape [V, D] with V = {len(words)} words, got {list(vectors.shape)}")
    for word in words:
        if word.split() != [word]:
            raise ValueError(f"a word must not be empty or have white space in it, got {word!r}")
    if len(set(words)) < len(words):
        raise ValueError(f"every word must occur once, but of {len(words)} words only {len(set(words))} are different")
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{vectors.shape[0]} {vectors.shape[1]}\n")
        for word, vector in zip(words, vectors.tolist()):
            file.write(f"{word} {' '.join(f'{x:.9g}' for x in vector)}\n")


def read_word_vectors(path: str | Path) -> tuple[list[str], Float[np.ndarray, "V D"]]:
    """Returns the words and their vectors, float32, as `write_word_vectors`, word2vec or gensim wrote them.

    Raises:
      DataError: if the file cannot be read or is not in this format.
    """
    file = Path(path)
    try:
        text = readable(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as word vectors ({error}): give a text file of word2vec") from error
    lines = text.rstrip("\n").split("\n")
    count, size = _header(file, lines[0])
    if len(lines) - 1 != count:
        raise DataError(f"{file} says that it has {count} words, and has {len(lines) - 1}: it was cut off or changed")
    if size >= _TOO_LONG or 2 * count * size > len(text):  # before any memory is taken: a number is two characters
        raise DataError(
            f"{file} says that its vectors have {size} numbers, which its {len(text)} characters cannot hold"
        )
    words, vectors = [], np.empty((count, size), np.float32)
    for i, line in enumerate(lines[1:]):
        word, *numbers = line.rstrip().split(" ")
        try:
            vectors[i] = np.array(numbers, np.float32).reshape(size)
        except ValueError:
            raise DataError(
                f"{file}, line {i + 2}: a word and {size} numbers are expected, got {line[:60]!r}"
            ) from None
        words.append(word)
    return words, vectors


def _header(file: Path, line: str) -> tuple[int, int]:
    try:
        count, size = (int(number) for number in line.split())
        if count < 0 or size < 1:
            raise ValueError
    except ValueError:
        raise DataError(
            f"{file}, line 1: the numbers of words and of dimensions are expected, got {line[:60]!r}"
        ) from None
    return count, size
