"""Where data is looked for: the one order of places, for every data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnnjax.errors import DataError

OTHER_SOURCES = (
    "name its folder with --config.data.path or RNNJAX_DATA, or use the `embedded` variant of the config, "
    "which needs no files"
)

_PATH, _VARIABLE = "--config.data.path", "RNNJAX_DATA"

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a data set is.

    Attributes:
      folder: that holds it.
      files: that were asked for and are there, in the order of their patterns; none in a store.
      named_by: what named the folder.
      stored: whether it is the store, where it was prepared or downloaded.
    """

    folder: Path
    files: tuple[Path, ...]
    named_by: str
    stored: bool = False


class Store(NamedTuple):
    """What a data set is once it is stored, in `rnnjax_NAME` where TFDS stores its data sets.

    Attributes:
      content: the name in that folder that is there once all is.
      fetch: downloads and stores it; None if that is not wanted.
      data_dir: where data sets are stored; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
    """

    content: str
    fetch: Callable[[], Any] | None = None
    data_dir: str | None = None


def locate(
    path: str | None,
    name: str,
    files: Sequence[str],
    *,
    any_file: bool = False,
    advice: str = f"put it there, {OTHER_SOURCES}",
    store: Store | None = None,
) -> Place:
    """Returns where a data set is, the first of these that holds any of its files.

    1. `path/NAME` or `path`, whichever holds more of the files; or `path` is one of them. No other place is tried.
    2. The same of the folder that the environment variable `RNNJAX_DATA` names, without a `path`.
    3. The store, if the data set can be there.
    4. The store, once the data set is downloaded into it.

    Args:
      path: a folder, or a file in it; None for the other places.
      name: of the data set.
      files: patterns of its files' names.
      any_file: whether one file is enough; then `path` may name a file that is called otherwise, and is all there is.
      advice: what to do where the data is in none of them.
      store: how the data set is stored, if it can be.

    Raises:
      DataError: if it is in none, or a folder has only a part of it; the message says where it was looked for and what
        to do.
    """
    looked_in = []
    named, named_by = (path, _PATH) if path else (os.environ.get(_VARIABLE), _VARIABLE)
    if named:
        root = Path(os.path.expanduser(named))
        place = _below(root, name, files, named_by, any_file=any_file and bool(path))
        if place is not None:
            return place if any_file else _complete(place, name, files)
        folders = str(root) if os.path.isfile(root) else f"{root / name} or {root}"
        looked_in.append(f"{folders} ({named_by})")
    if store is not None and not path:
        folder = stored_folder(name, store.data_dir)
        if named:
            _log.warning("RNNJAX_DATA=%s holds no files of %s, so it is looked for in %s", named, name, folder)
        looked_in.append(str(folder / store.content))
        if (folder / store.content).exists() or _fetched(name, store, looked_in):
            return Place(folder, (), "the store", stored=True)
    where = f"not in {', nor in '.join(looked_in)}" if looked_in else "looked for nowhere, as no folder is named"
    raise DataError(f"{name} ({', '.join(files)}) is {where}: {advice}")


def fullest_folder(root: Path, name: str, files: Sequence[str]) -> Path | None:
    """Returns `root/NAME` or `root`, whichever holds more of the files; None where neither holds any."""

    def held(folder: Path) -> int:
        return sum(bool(_matching(folder, pattern)) for pattern in files)

    folder = max(root / name, root, key=held)
    return folder if held(folder) else None


def stored_folder(name: str, data_dir: str | None = None) -> Path:
    """Returns the folder of a data set where TFDS stores its own, which may not exist yet.

    Args:
      name: of the data set.
      data_dir: where data sets are stored; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(os.path.expanduser(root)) / f"rnnjax_{name}"


def own_path(path: str) -> Path:
    """Returns the file or folder of data of your own, which is looked for at its path alone.

    Raises:
      DataError: if there is nothing.
    """
    place = Path(os.path.expanduser(path))
    if not os.path.exists(place):  # which raises nothing
        raise DataError(f"{place} does not exist: give the data with {_PATH}")
    return place


def _below(root: Path, name: str, files: Sequence[str], named_by: str, *, any_file: bool) -> Place | None:
    """Returns the place of a data set in the folder, or beside the file, that is named; None if it is not there."""
    if os.path.isfile(root):
        if any_file:
            return Place(root.parent, (root,), named_by)
        if not any(root.match(pattern) for pattern in files):
            return None
        return Place(root.parent, _all_matching(root.parent, files), named_by)
    folder = fullest_folder(root, name, files)
    return None if folder is None else Place(folder, _all_matching(folder, files), named_by)


def _complete(place: Place, name: str, files: Sequence[str]) -> Place:
    """Returns the place of a data set of which all files are there."""
    missing = [file for file in files if not _matching(place.folder, file)]
    if missing:
        lacking = f"{', '.join(missing)} of {name} {'is' if len(missing) == 1 else 'are'} missing"
        raise DataError(f"{lacking} in {place.folder} ({place.named_by}): put it there, {OTHER_SOURCES}")
    return place


def _fetched(name: str, store: Store, looked_in: Sequence[str]) -> bool:
    """Returns whether a data set is stored now."""
    if store.fetch is None:
        return False
    try:
        store.fetch()
    except DataError as error:
        raise DataError(f"{name} is not in {', nor in '.join(looked_in)}, and {error}") from error
    return True


def _all_matching(folder: Path, files: Sequence[str]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(file for pattern in files for file in _matching(folder, pattern)))


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:  # a folder that cannot be read, or a name that none can have
        return []
