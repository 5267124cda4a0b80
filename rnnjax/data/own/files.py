"""The files of data of your own: one, or one for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnjax.data.locate import own_path
from rnnjax.errors import DataError, require

_STEMS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def own_files(path: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Returns the one file of a path as `all`, or of a folder the files `train`, `validation` and `test` by split.

    Args:
      path: of the file or the folder.
      suffixes: that files may have.

    Raises:
      DataError: if a file is missing, there are several for a split, or it has another suffix.
    """
    root = own_path(path)
    if root.is_dir():
        return {split: _of_split(root, stems, suffixes) for split, stems in _STEMS.items()}
    if root.suffix.lower() not in suffixes:
        raise DataError(f"{root} is no {' or '.join(suffixes)} file: convert it, or rename it if it is one")
    return {"all": root}


def learnt_from(reading: Any) -> str:
    """Returns the checksum of the file that a reading was learnt from.

    Raises:
      ConfigError: without a reading: what would be learnt from all of a file would be tested on it.
    """
    require(reading is not None, "data.whole is for the evaluation of other data by a finished run; leave it out")
    return reading.checksum


def _of_split(folder: Path, stems: Sequence[str], suffixes: Sequence[str]) -> Path:
    files = [file for file in sorted(folder.iterdir()) if file.stem in stems and file.suffix.lower() in suffixes]
    if len(files) != 1:
        got = ", ".join(file.name for file in files) or "none"
        wanted = " or ".join(f"{stems[0]}{suffix}" for suffix in suffixes)
        raise DataError(f"{folder} must hold one file {wanted}, got {got}: put it there, or give one file as data.path")
    return files[0]
