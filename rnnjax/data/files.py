"""Files that data is read from."""

from __future__ import annotations

import stat
from pathlib import Path

from rnnjax.errors import DataError


def regular(file: Path) -> Path:
    """Returns a path, unless it is a device: one such as /dev/zero may have no end.

    Raises:
      DataError: if it is a device.
      OSError: if it does not exist.
    """
    mode = file.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise DataError(f"{file} is a device, not a file: give a file")
    return file
