"""Files that data is read from."""

from __future__ import annotations

import stat
from pathlib import Path

from rnnjax.errors import DataError
from rnnjax.memory import free_memory


def readable(file: Path, *, copies: int = 2) -> Path:
    """Returns the path of a file that is to be read whole.

    Args:
      file: the file.
      copies: how many times its size is held in memory at once: of a text, its bytes and its characters.

    Raises:
      DataError: if it is a device, of which one such as /dev/zero has no end, or takes more memory than is free.
      OSError: if it does not exist.
    """
    about = file.stat()
    if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
        raise DataError(f"{file} is a device, not a file: give a file")
    needed, free = copies * about.st_size, free_memory()
    if needed > free:
        raise DataError(
            f"{file} takes at least {needed / 2**30:,.1f} GiB of memory when it is read, of which "
            f"{free / 2**30:,.1f} GiB are free: give a smaller file"
        )
    return file
