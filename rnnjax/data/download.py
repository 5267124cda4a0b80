"""Downloads of single files that are kept as they are."""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from rnnjax.errors import DataError

_SECONDS = 20


def downloaded(url: str, name: str, file: str, data_dir: str | None = None) -> Path:
    """Returns the path of a file, fetched from `url` unless it is there already.

    It is kept as `rnnjax_NAME/FILE` where TFDS keeps its data sets: `data_dir`, by default `TFDS_DATA_DIR`, or else
    `~/tensorflow_datasets`. A file that has its final name is a complete one.

    Raises:
      DataError: it cannot be fetched or stored.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = Path(root).expanduser() / f"rnnjax_{name}" / file
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(url, path)
        except OSError as error:  # what urllib raises is one too
            raise DataError(
                f"{name} cannot be downloaded from {url} to {path.parent} ({error}): "
                "name a folder that has it with --config.data.path or RNNJAX_DATA"
            ) from error
    return path


def _fetch(url: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, part.open("wb") as out:
            shutil.copyfileobj(answer, out)
        part.replace(path)
