"""What is kept between runs, so that the next one starts sooner."""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Returns the directory of what is kept: RNNJAX_CACHE, or `rnnjax` in the user's caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("RNNJAX_CACHE") or Path(caches, "rnnjax")))


def keep_compilations() -> None:
    """Has JAX keep compiled programs on disk, unless the user said where, or that it should not.

    A program is found again by its own content, that of the compiler and of the machine, so that a run that resumes
    or a second seed starts without compiling.
    """
    import jax

    warnings.filterwarnings("ignore", f"Error writing {_ENTRY}")  # a full disk, said of each program; it is compiled
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return
    directory = cache_directory() / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        mend_compilations(directory)
    except OSError as error:
        _log.warning("%s cannot be written (%s): programs are compiled again every time", directory, error.strerror)
        return
    warnings.filterwarnings("ignore", f"Error reading {_ENTRY}")  # one damaged since: it is mended at the next start
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the many small ones make up seconds


def mend_compilations(directory: Path) -> None:
    """Deletes damaged programs among those written since this was last done, and says so; they are compiled again.

    JAX writes a program to its place byte by byte, and never again: one that was cut off by a kill would be there, and
    be compiled in vain, for good.

    Raises:
      OSError: if nothing can be written there.
    """
    stamp = directory / "mended"
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()
    new = (path for path in directory.glob("*-cache") if path.stat().st_mtime_ns >= since)
    damaged = [path for path in new if not _is_whole(path.read_bytes())]
    for path in damaged:
        path.unlink(missing_ok=True)
    if damaged:
        _log.warning("%s: damaged programs, %d, are deleted and compiled again", directory, len(damaged))


def _is_whole(content: bytes) -> bool:
    """Says whether a compiled program is whole, as JAX writes it: by zlib, or by zstandard where that is installed."""
    if content.startswith(_ZSTANDARD):
        return True  # what is damaged there is found by JAX
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True


_ENTRY = "persistent compilation cache entry"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
