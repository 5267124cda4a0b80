"""Downloads single files, which are kept unchanged."""

from __future__ import annotations

import http.client
import logging
import shutil
import tempfile
import urllib.request
from pathlib import Path

from rnnjax.data.locate import OTHER_SOURCES, stored_folder
from rnnjax.errors import DataError

_SECONDS = 20
_TRIES = 3

_log = logging.getLogger(__name__)


def downloaded(url: str, name: str, file: str, data_dir: str | None = None) -> Path:
    """Returns the path of a file, which is downloaded unless it exists.

    It is stored as `rnnjax_NAME/FILE` where TFDS stores its data sets. A file that has its final name is complete; an
    interrupted download is discarded and repeated.

    Args:
      url: of the file.
      name: of the data set.
      file: name of the file.
      data_dir: where data sets are stored; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.

    Raises:
      DataError: it cannot be downloaded or stored.
    """
    path = stored_folder(name, data_dir) / file
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(url, path)
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
            raise DataError(
                f"{name} cannot be downloaded from {url} to {path.parent} ({_sentence(error)}): {OTHER_SOURCES}"
            ) from error
    return path


def _download(url: str, path: Path) -> None:
    """Downloads a file, from the start again if the connection breaks off."""
    for tried in range(1, _TRIES + 1):
        try:
            _download_once(url, path)
            return
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if tried == _TRIES:
                raise
            _log.warning(
                "the download from %s broke off (%s) and is tried again (try %d of %d)",
                *(url, _sentence(error), tried + 1, _TRIES),
            )


def _download_once(url: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, part.open("wb") as out:
            shutil.copyfileobj(answer, out)
            announced = answer.headers.get("Content-Length")
        size = part.stat().st_size
        if announced is not None and announced != str(size):  # http.client does not notice an early end
            raise ConnectionError(f"{size} of {announced} bytes came")
        part.replace(path)


def _sentence(error: Exception) -> str:
    """Returns an error's message in one line; some have none, some contain what the server sent."""
    return " ".join(str(error).split())[:200] or type(error).__name__
