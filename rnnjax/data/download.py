"""Downloads of single files that are kept as they are."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from rnnjax.errors import DataError

_SECONDS = 20
_TRIES = 3

_log = logging.getLogger(__name__)


def downloaded(url: str, name: str, file: str, data_dir: str | None = None) -> Path:
    """Returns the path of a file, fetched from `url` unless it is there already.

    It is kept as `rnnjax_NAME/FILE` where TFDS keeps its data sets: `data_dir`, by default `TFDS_DATA_DIR`, or else
    `~/tensorflow_datasets`. A file that has its final name is a complete one; a download that breaks off is thrown
    away and tried again.

    Raises:
      DataError: it cannot be fetched or stored.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = Path(os.path.expanduser(root)) / f"rnnjax_{name}" / file
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(url, path)
        except (OSError, http.client.HTTPException) as error:  # what urllib raises is the first too
            raise DataError(
                f"{name} cannot be downloaded from {url} to {path.parent} ({_sentence(error)}): "
                "name a folder that has it with --config.data.path or RNNJAX_DATA"
            ) from error
    return path


def _fetch(url: str, path: Path) -> None:
    """Fetches a file, from the start again where the connection breaks off."""
    for tried in range(1, _TRIES + 1):
        try:
            _fetch_once(url, path)
            return
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if tried == _TRIES:
                raise
            _log.warning(
                "the download from %s broke off (%s) and is tried again (try %d of %d)",
                *(url, _sentence(error), tried + 1, _TRIES),
            )


def _fetch_once(url: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, part.open("wb") as out:
            shutil.copyfileobj(answer, out)
            announced = answer.headers.get("Content-Length")
        size = part.stat().st_size
        if announced is not None and announced != str(size):  # http.client takes an early end for the end
            raise ConnectionError(f"{size} of {announced} bytes came")
        part.replace(path)


def _sentence(error: Exception) -> str:
    """Returns what an error says in one line; some say nothing, some pass on what the server sent."""
    return " ".join(str(error).split())[:200] or type(error).__name__
