"""The cache of the user, such as compiled programs, with which later runs start faster."""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

from rnnjax.files import is_object, read_json, write_json

_log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Returns the cache directory: RNNJAX_CACHE, or `rnnjax` in the user's cache directory."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("RNNJAX_CACHE") or Path(caches, "rnnjax")))


def read_kept(name: str, then: str) -> dict[str, Any]:
    """Returns the object in a JSON file of the cache; empty if there is none, or, with a warning, if it is damaged.

    Args:
      name: of the file.
      then: what follows if it is damaged, for the warning.
    """
    return read_json(cache_directory() / name, is_object, then) or {}


def write_kept(name: str, value: dict[str, Any], then: str) -> None:
    """Writes a JSON file of the cache; if that fails, it is logged that `then` follows."""
    path = cache_directory() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
    except OSError as error:
        _log.warning("%s cannot be written (%s): %s", path, error.strerror, then)


def keep_compilations() -> None:
    """Makes JAX store compiled programs on disk, unless the user has set JAX's own cache directory.

    Programs are identified by their content, the compiler and the machine, so that a resumed run or a run with another
    seed does not compile again.
    """
    import jax

    warnings.filterwarnings("ignore", f"Error writing {_ENTRY}")  # a full disk, once per program
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return
    directory = cache_directory() / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        delete_damaged_programs(directory)
    except OSError as error:
        _log.warning("%s cannot be written (%s): programs are compiled again every time", directory, error.strerror)
        return
    warnings.filterwarnings("ignore", f"Error reading {_ENTRY}")  # damaged since this start; repaired at the next
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Even small programs: their compilation takes seconds in total.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def delete_damaged_programs(directory: Path) -> None:
    """Deletes damaged programs among those written since the last call, and logs it; they are compiled again.

    JAX does not write programs atomically, and never replaces one: a program whose writing was interrupted would stay
    damaged, and would be compiled again in every run.

    Raises:
      OSError: if nothing can be written there.
    """
    stamp = directory / "mended"
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()
    new = (path for path in directory.glob("*-cache") if path.stat().st_mtime_ns >= since)
    damaged = [path for path in new if not _is_undamaged(path.read_bytes())]
    for path in damaged:
        path.unlink(missing_ok=True)
    if damaged:
        _log.warning("%s: damaged programs, %d, are deleted and compiled again", directory, len(damaged))


def _is_undamaged(content: bytes) -> bool:
    """Says whether a stored program can be decompressed: JAX compresses with zlib, or zstandard if installed."""
    if content.startswith(_ZSTANDARD):
        return True  # here JAX detects damage itself
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True


_ENTRY = "persistent compilation cache entry"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
