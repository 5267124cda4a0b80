"""Texts to learn word embeddings from, as lists of words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from rnnjax.data.words import tokenise
from rnnjax.errors import DataError

# What is written in place of rare words is no word.
_RARE = "<unk>"


class Corpus(NamedTuple):
    """Words of the splits `train`, `validation` and `test`, and one phrase saying where they came from."""

    splits: dict[str, list[str]]
    source: str


def embedded_corpus() -> Corpus:
    """Returns the text on Python's syntax that CPython ships for its `help`."""
    from pydoc_data import topics

    texts = topics.topics
    tokens = tokenise("\n".join(texts[name] for name in sorted(texts)))
    return Corpus(_cut(tokens), "the text that CPython ships, pydoc_data.topics")


def ptb_corpus(path: str | None = None) -> Corpus:
    """Returns the Penn Treebank in Mikolov's preprocessing, without the marks of rare words.

    Args:
      path: the folder with `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`, or the one above its `ptb`; None
        takes that which the environment variable `RNNJAX_DATA` names.

    Raises:
      DataError: if a file is missing.
    """
    root = path or os.environ.get("RNNJAX_DATA")
    if not root:
        raise DataError("there is no folder to look for the Penn Treebank in: set --config.data.path or RNNJAX_DATA")
    folder = Path(root).expanduser()
    folder = folder / "ptb" if (folder / "ptb").is_dir() else folder
    files = {"train": "ptb.train.txt", "validation": "ptb.valid.txt", "test": "ptb.test.txt"}
    splits = {split: [word for word in _read(folder / file).split() if word != _RARE] for split, file in files.items()}
    return Corpus(splits, f"the Penn Treebank in {folder}")


def text_corpus(path: str) -> Corpus:
    """Returns the words of a text file, the first nine tenths for training.

    Raises:
      DataError: if it cannot be read, or has too few words.
    """
    tokens = tokenise(_read(Path(path).expanduser()))
    if len(tokens) < 100:
        raise DataError(f"{path} has {len(tokens)} words; give a text of 100 or more")
    return Corpus(_cut(tokens), f"the text {path}")


def _cut(tokens: list[str]) -> dict[str, list[str]]:
    nine, rest = len(tokens) * 9 // 10, len(tokens) * 19 // 20
    return {"train": tokens[:nine], "validation": tokens[nine:rest], "test": tokens[rest:]}


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}): name another with --config.data.path or RNNJAX_DATA"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from error
