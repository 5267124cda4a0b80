"""Files that data is read from."""

from __future__ import annotations

import stat
from pathlib import Path

from rnnjax.errors import DataError


def regular(file: Path) -> Path:
    """Returns a file that is one, or a pipe; a device such as /dev/zero may have no end.

    Raises:
      DataError: if it is a device; OSError: if there is none.
    """
    mode = file.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise DataError(f"{file} is a device, not a file: give a file")
    return file
