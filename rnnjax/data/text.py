"""Texts for language models: Tiny Shakespeare, the Penn Treebank, one that CPython ships, and your own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnjax.data.dataset import content_checksum
from rnnjax.data.download import downloaded
from rnnjax.data.files import readable
from rnnjax.data.locate import OTHER_SOURCES, Store, locate, own_path
from rnnjax.data.vocabulary import split_words
from rnnjax.errors import DataError

PTB_TOKENS = {"train": 929_589, "validation": 73_760, "test": 82_430}
TINY_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # SHA-256

_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_FILE_NAMES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
_OWN = "read a text of your own with --config.data.name=text"


class Texts(NamedTuple):
    """The texts of a data set, by split, with a phrase that names their source."""

    name: str
    splits: Mapping[str, str]
    source: str

    @property
    def checksum(self) -> str:
        """Hex digest of the texts, the same whatever source they were read from."""
        return content_checksum(
            {split: {"text": np.frombuffer(text.encode(), np.uint8)} for split, text in self.splits.items()}
        )


class Cuts(NamedTuple):
    """How one text becomes three splits: first `train`, then `test`, and `validation` at the end.

    With a tenth for validation, the validation split of Tiny Shakespeare is that of published figures. The test split
    is the end of what published models are trained on; here it is not trained on.

    Attributes:
      validation, test: their fractions of the text's characters.
      at_lines: whether to cut only between lines.
    """

    validation: float = 0.1
    test: float = 0.05
    at_lines: bool = False


def load_tiny_shakespeare(
    path: str | None = None,
    cuts: Cuts = Cuts(),  # noqa: B008
    data_dir: str | None = None,
) -> Texts:
    """Loads 1,115,394 characters of Shakespeare's plays (Karpathy, 2015).

    The file `input.txt` is found as `locate` says, or downloaded once.

    Args:
      path: its folder; no other source is tried.
      cuts: how it becomes three splits.
      data_dir: where downloads are kept; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.

    Raises:
      DataError: the file is missing or is not the published one.
    """
    fetch = functools.partial(downloaded, _URL, "tinyshakespeare", "input.txt", data_dir)
    advice = f"put it there, {_OWN}, {OTHER_SOURCES}"
    store = Store("input.txt", fetch, data_dir)
    place = locate(path, "tinyshakespeare", ["input.txt"], advice=advice, store=store)
    file = place.folder / "input.txt"
    text = read_text(file)
    # Of the text, not of the file, whose line ends may have been changed.
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != TINY_SHAKESPEARE:
        raise DataError(
            f"{file} is not the published Tiny Shakespeare (SHA-256 {digest}): "
            "replace it, or use it as a text of your own with --config.data.name=text"
        )
    named_by = f"downloaded from {_URL}" if place.stored else place.named_by
    return Texts("tinyshakespeare", cut(text, cuts, str(file)), f"Tiny Shakespeare in {place.folder} ({named_by})")


def load_ptb(path: str | None = None) -> Texts:
    """Loads the Penn Treebank as Mikolov et al. (2010) prepared it: 929,589 / 73,760 / 82,430 tokens, 10,000 words.

    Its files `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt` are found as `locate` says. Its licence allows no
    download.

    Raises:
      DataError: a file is missing, or does not have the expected number of tokens.
    """
    files = [f"ptb.{name}" for name in _FILE_NAMES.values()]
    advice = f"get the Penn Treebank, which is not free to download, {_OWN}, {OTHER_SOURCES}"
    folder, _, named_by, _ = locate(path, "ptb", files, advice=advice)
    splits = {split: read_text(folder / f"ptb.{name}") for split, name in _FILE_NAMES.items()}
    for split, text in splits.items():
        count = len(split_words(text))
        if count != PTB_TOKENS[split]:
            raise DataError(
                f"{folder / f'ptb.{_FILE_NAMES[split]}'} has {count} tokens where the original has "
                f"{PTB_TOKENS[split]}: replace it, or use the folder as a text of your own with --config.data.name=text"
            )
    return Texts("ptb", splits, f"the Penn Treebank in {folder} ({named_by})")


def load_embedded_text(cuts: Cuts = Cuts()) -> Texts:  # noqa: B008
    """Loads the help topics of Python's own documentation, which CPython ships: about half a million characters.

    Raises:
      DataError: the installed Python does not include them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python comes without the module pydoc_data, whose text is the embedded one: "
            "install all of Python, or choose another variant"
        ) from None
    # Sorted, so that the text does not depend on the order in which a version of Python lists the topics.
    text = "\n".join(topics[name].strip() + "\n" for name in sorted(topics))
    return Texts("embedded", cut(text, cuts, "pydoc_data"), "the help topics of the installed Python (pydoc_data)")


def load_own_text(path: str, cuts: Cuts = Cuts()) -> Texts:  # noqa: B008
    """Loads your own text, in UTF-8: one file, which is cut into splits, or a folder with one file for each split.

    In a folder the files are called `train.txt`, `valid.txt` and `test.txt`, or `NAME.train.txt` and so on, like those
    of the Penn Treebank.

    Raises:
      DataError: a file is missing, empty, or not text.
    """
    root = own_path(path)
    if root.is_dir():
        splits = {split: read_text(_split_file(root, name)) for split, name in _FILE_NAMES.items()}
        return Texts(root.resolve().name, splits, f"the text files in {root}")
    return Texts(root.stem, cut(read_text(root), cuts, str(root)), f"the text file {root}")


def _split_file(folder: Path, name: str) -> Path:
    files = sorted({*folder.glob(name), *folder.glob(f"*.{name}")})
    if len(files) != 1:
        got = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{folder} must hold one file {name} or NAME.{name}, got {got}: put the right one there")
    return files[0]


def read_text(file: Path) -> str:
    """Returns the text in a UTF-8 file, with line feeds for all kinds of line ends.

    Raises:
      DataError: the file is missing, cannot be read, is not UTF-8, or is empty.
    """
    try:
        # "sig": without the mark that some programs begin a file with, which would be a character of the vocabulary.
        text = readable(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"the text file {file} is missing: put it there, or give another --config.data.path") from None
    except OSError as error:
        raise DataError(f"the text file {file} cannot be read ({error.strerror}): make it readable") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 (at byte {error.start}): convert it") from None
    if not text.strip():
        raise DataError(f"the text file {file} is empty: put text into it")
    return text


def cut(text: str, cuts: Cuts, name: str) -> dict[str, str]:
    """Returns the splits of one text.

    Raises:
      DataError: a split would be empty.
    """
    ends = [_cut_place(text, 1 - cuts.validation - cuts.test, cuts), _cut_place(text, 1 - cuts.validation, cuts)]
    splits = {"train": text[: ends[0]], "validation": text[ends[1] :], "test": text[ends[0] : ends[1]]}
    for split, part in splits.items():
        if not part.strip():
            raise DataError(f"{name} has only {len(text)} characters, which leaves none for {split}: use a longer text")
    return splits


def _cut_place(text: str, fraction: float, cuts: Cuts) -> int:
    place = int(len(text) * fraction)
    # 0 where no line ends behind the place, since `find` then returns -1.
    line_end = text.find("\n", place) + 1 if cuts.at_lines else 0
    return line_end or place
