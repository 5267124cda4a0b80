"""Pairs of sentences: where they come from, and as arrays of tokens."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnjax.data.dataset import Arrays, DataSet, content_checksum
from rnnjax.data.dates import generate_dates
from rnnjax.data.files import readable
from rnnjax.data.locate import OTHER_SOURCES, Place, locate, own_path
from rnnjax.data.own.files import own_files
from rnnjax.data.sentence_vocabulary import END, PADDING, SentenceVocabulary, learn_vocabulary
from rnnjax.errors import DataError
from rnnjax.memory import free_memory

Pair = tuple[str, str]
Pairs = Mapping[str, Sequence[Pair]]

NAMES = ("dates", "multi30k_de_en", "tatoeba_en_fr", "tatoeba_en_ko", "tsv")

_DATE_SIZES = {"train": 12_800, "validation": 1_000, "test": 2_000}
_DATE_SEED = 0
_MULTI30K = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
_TATOEBA = {
    "tatoeba_en_fr": ("fra-eng*.zip", "fra.txt"),
    "tatoeba_en_ko": ("eng-kor*.txt", "kor-eng*.zip", "kor.txt"),
}
_HELD_OUT = 2_000  # pairs of validation and of test, or a tenth of all where that is fewer

_log = logging.getLogger(__name__)


class Translation(NamedTuple):
    """Pairs as text and as tokens.

    `data` has for every split `source [N, S]` and `target [N, T]`, whose last valid token is the end, and how many
    tokens of each are valid, `source_length [N]` and `target_length [N]`.
    """

    data: DataSet
    pairs: Pairs
    source: SentenceVocabulary
    target: SentenceVocabulary


def load_translation(
    name: str,
    path: str | None,
    *,
    kind: str,
    source_size: int,
    target_size: int,
    max_length: int,
    vocabularies: tuple[SentenceVocabulary, SentenceVocabulary] | None = None,
) -> Translation:
    """Loads pairs of sentences and learns their vocabularies from the training split, unless these are given.

    Pairs with a sequence of more than `max_length` tokens, the end token included, are left out of training. In the
    other splits such sequences are truncated, while `pairs` keeps the whole text.

    Args:
      name: "dates" (generated), "multi30k_de_en", "tatoeba_en_fr", "tatoeba_en_ko", or "tsv" for your own file
        with a source, a tab and a target in every line, or a folder with `train`, `validation` and `test` files.
      path: the folder of the files, or the file; None looks in RNNJAX_DATA.
      kind: of the vocabularies, as for `learn_vocabulary`.
      source_size: most tokens of the source's vocabulary.
      target_size: most tokens of the target's vocabulary.
      max_length: most tokens of a sequence.
      vocabularies: of source and target, if they are not to be learnt.

    Raises:
      DataError: for files that are missing or have wrong content.
      ValueError: for an unknown name.
    """
    pairs, source = load_pairs(name, path)
    vocabularies = vocabularies or (
        learn_vocabulary([source_text for source_text, _ in pairs["train"]], kind, source_size),
        learn_vocabulary([target_text for _, target_text in pairs["train"]], kind, target_size),
    )
    tokens = {split: [_tokens(pair, vocabularies) for pair in part] for split, part in pairs.items()}
    fits = [max(map(len, pair)) <= max_length for pair in tokens["train"]]
    if not any(fits):
        raise DataError(f"no training pair of {source} has at most {max_length} tokens a side; raise max_length")
    if not all(fits):
        _log.warning("%d of %d training pairs have more than %d tokens", fits.count(False), len(fits), max_length)
    pairs = {**pairs, "train": [pair for pair, is_short in zip(pairs["train"], fits) if is_short]}
    tokens["train"] = [pair for pair, is_short in zip(tokens["train"], fits) if is_short]
    splits = _arrays(tokens, max_length)
    return Translation(DataSet(name, splits, source, content_checksum(splits)), pairs, *vocabularies)


def load_pairs(name: str, path: str | None) -> tuple[Pairs, str]:
    """Returns the pairs of every split and a phrase that names their source; it raises what `load_translation` does."""
    if name == "dates":
        return generate_dates(_DATE_SIZES, _DATE_SEED), f"dates generated with seed {_DATE_SEED}"
    if name == "multi30k_de_en":
        return _multi30k(
            locate(path, "multi30k", _multi30k_files(), advice=_from("https://github.com/multi30k/dataset"))
        )
    if name in _TATOEBA:
        advice = _from("https://www.manythings.org/anki")
        file = locate(path, "tatoeba", _TATOEBA[name], any_file=True, advice=advice).files[0]
        return split_by_source(_read_pairs(file)), f"the Tatoeba pairs in {file}"
    if name == "tsv":
        if path is None:
            raise DataError("the data set tsv needs a file: give it as --config.data.path")
        return _own_pairs(own_path(path)), f"the pairs in {path}"
    raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")


def _own_pairs(path: Path) -> Pairs:
    """Returns the pairs of a file, split by their source, or of a folder with a file for each split."""
    if not path.is_dir():
        return split_by_source(_read_pairs(path))
    pairs = {split: _read_pairs(file) for split, file in own_files(str(path), (".tsv", ".txt")).items()}
    empty = next((split for split, part in pairs.items() if not part), None)
    if empty is not None:
        raise DataError(f"the {empty} file in {path} has no pairs: give lines of a source, a tab and a target")
    return pairs


def _from(url: str) -> str:
    """Returns what to do where a data set is not found that an address has."""
    return f"get it from {url}, {OTHER_SOURCES}"


def _multi30k_files() -> list[str]:
    return [f"{stem}.lc.norm.tok.{language}" for stem in _MULTI30K.values() for language in ("de", "en")]


def _multi30k(place: Place) -> tuple[Pairs, str]:
    """Returns German and English captions, tokenised and in lower case (Elliott et al., 2016)."""
    pairs, folder = {}, place.folder
    for split, stem in _MULTI30K.items():
        german, english = (_lines(folder / f"{stem}.lc.norm.tok.{language}") for language in ("de", "en"))
        if len(german) != len(english):
            raise DataError(f"{folder} has {len(german)} German lines of {stem}, but {len(english)} English ones")
        pairs[split] = list(zip(german, english))
    return pairs, f"the Multi30k files in {folder}"


def _lines(file: Path) -> list[str]:
    try:
        # Not `splitlines`, which also splits at characters that are in some sentences.
        return _content(file).decode("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text ({error}); give another data.path") from error


def _content(file: Path) -> bytes:
    """Returns the content of a text file, or of the text file in an archive (not one whose name begins with _)."""
    if readable(file).suffix != ".zip":
        return file.read_bytes()
    try:
        with zipfile.ZipFile(file) as archive:
            return _member(archive, [member for member in archive.infolist() if member.filename.endswith(".txt")])
    except Exception as error:  # damaged and encrypted archives raise errors of many types
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{file} cannot be unpacked ({reason}); unpack it yourself, or give another data.path"
        ) from error


def _member(archive: zipfile.ZipFile, texts: Sequence[zipfile.ZipInfo]) -> bytes:
    """Returns the first text in an archive, unless the archive states a size that cannot be read."""
    member = next((text for text in texts if not text.filename.startswith("_")), None)
    if member is None:
        raise ValueError("there is no text in it")
    if 2 * member.file_size > free_memory():
        raise ValueError(f"{member.filename} in it is {member.file_size} bytes large, too many for this machine")
    return archive.read(member)


def _read_pairs(file: Path) -> list[Pair]:
    """Returns the first two columns of tab-separated lines, without blank lines and those with an empty column."""
    pairs = []
    for number, line in enumerate(_lines(file), 1):
        columns = line.split("\t") if line.strip() else ["", ""]
        if len(columns) < 2:
            what = f"has no tab between a source and a target: {line[:40]!r}"
            raise DataError(f"line {number} of {file} {what}; write one there, or remove the line")
        if columns[0].strip() and columns[1].strip():
            pairs.append((columns[0].strip(), columns[1].strip()))
    return pairs


def split_by_source(pairs: Sequence[Pair]) -> Pairs:
    """Returns pairs as `train`, `validation` and `test`, in mixed order; no source is in two of them.

    Pairs are split by the digest of their source, so that the result does not depend on their order.
    """
    ordered = sorted(pairs, key=lambda pair: (hashlib.sha256(pair[0].encode()).digest(), pair[1]))
    held_out = min(_HELD_OUT, len(pairs) // 10)
    if not held_out:
        raise DataError(f"there are {len(pairs)} pairs; give at least 10, for training, validation and test")
    ends = []
    for least in (held_out, 2 * held_out):
        while 0 < least < len(ordered) and ordered[least][0] == ordered[least - 1][0]:
            least += 1
        ends.append(least)
    if ends[-1] >= len(ordered):
        raise DataError(f"{len(pairs)} pairs have too few different sources to be split; give more")
    return {"test": ordered[: ends[0]], "validation": ordered[ends[0] : ends[1]], "train": ordered[ends[1] :]}


def _tokens(pair: Pair, vocabularies: tuple[SentenceVocabulary, SentenceVocabulary]) -> tuple[list[int], list[int]]:
    """Returns the tokens of source and target, the latter with the end token."""
    return vocabularies[0].encode(pair[0]), [*vocabularies[1].encode(pair[1]), END]


def _arrays(tokens: Mapping[str, Sequence[tuple[list[int], list[int]]]], max_length: int) -> Mapping[str, Arrays]:
    """Returns the fields of every split, padded to the longest sequence of any split."""
    sides = {split: (list(zip(*part)) if part else [(), ()]) for split, part in tokens.items()}
    splits: dict[str, dict[str, np.ndarray]] = {split: {} for split in tokens}
    for side, field in enumerate(("source", "target")):
        width = min(max_length, max(len(sequence) for part in sides.values() for sequence in part[side]))
        for split, part in sides.items():
            splits[split][field], splits[split][f"{field}_length"] = padded(part[side], width)
    return splits


def padded(sequences: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns sequences padded at the end, or truncated, to ``[N, width]``, and their lengths ``[N]``."""
    table = np.full((len(sequences), width), PADDING, np.int32)
    lengths = np.array([min(len(sequence), width) for sequence in sequences], np.int32)
    for row, sequence in zip(table, sequences):
        row[: min(len(sequence), width)] = sequence[:width]
    return table, lengths
