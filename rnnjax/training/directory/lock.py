"""A lock on a directory, so that only one process writes there; the kernel releases it when the process ends.

On a platform without `fcntl` there is no lock; on a file system that supports none, a warning is logged.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rnnjax.errors import ConfigError, DirectoryInUse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_log = logging.getLogger(__name__)

LOCK = "lock"
_TRIES = 100
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[str]:
    """Locks a directory, which is created if it is missing; yields the mark that its lock file contains.

    Directories that were created and are still empty at the end are removed.

    Raises:
      DirectoryInUse: if another process has locked it, on this machine or, if a shared disk supports locks, on another.
      ConfigError: if nothing can be written there.
    """
    created = _missing(directory)
    try:
        file = _take(directory)
        _locked_files.add(file)
        try:
            yield _sign(file)
        finally:
            (directory / LOCK).unlink(missing_ok=True)  # before it is released: the next process creates its own
            _locked_files.discard(file)
            os.close(file)
    finally:
        with contextlib.suppress(OSError):
            for path in created:
                path.rmdir()


def mark_of(directory: Path) -> str:
    """Returns the mark in the lock file of a directory; an empty string if there is none."""
    try:
        return (directory / LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _missing(directory: Path) -> list[Path]:
    """Returns the directories that must be created, the innermost first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


def _take(directory: Path) -> int:
    """Creates and locks the lock file; returns its file descriptor."""
    failed = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    for _ in range(_TRIES):  # the previous process may be removing the file or the directory at this moment
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError as error:
            failed = error
            continue
        except OSError as error:
            failed = error
            break
        try:
            _lock(file, directory)
            if _is_same_file(file, directory / LOCK):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise ConfigError(f"{directory} cannot be used ({failed.strerror}); choose another --workdir") from failed


def _lock(file: int, directory: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DirectoryInUse(
            f"{directory} is in use by {_holder(directory)}; wait until it ends, or choose another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("the file system of %s keeps no locks: see that no other process writes there", directory)


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _sign(file: int) -> str:
    """Writes a mark into the lock file that says which process has locked it; returns the mark."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    mark = json.dumps(about) + "\n"
    os.ftruncate(file, 0)
    os.pwrite(file, mark.encode(), 0)
    return mark


def _holder(directory: Path) -> str:
    try:
        about = json.loads(mark_of(directory))
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (ValueError, LookupError, TypeError, RecursionError):
        return "another process"


_locked_files: set[int] = set()


def _close_in_child() -> None:
    """Closes the parent's lock files in a forked child, which would otherwise keep them locked as long as it runs."""
    for file in _locked_files:
        os.close(file)
    _locked_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
