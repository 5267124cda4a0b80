"""One writer for a directory: a lock on a file in it, which the kernel releases when its process ends, however it does.

Where the platform has no `fcntl` there is no lock, and where the file system has none there is a warning.
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
    """Within it this process alone writes in a directory, which is made where there is none; gives the holder's mark.

    What is still empty at the end is removed again.

    Raises:
      DirectoryInUse: if another process holds it, of this machine or, where the shared disk keeps locks, of another.
      ConfigError: if nothing can be written there.
    """
    made = _missing(directory)
    try:
        file = _take(directory)
        _held.add(file)
        try:
            yield _sign(file)
        finally:
            (directory / LOCK).unlink(missing_ok=True)  # before it is released: the next holder makes its own
            _held.discard(file)
            os.close(file)
    finally:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()


def mark_of(directory: Path) -> str:
    """Returns what the holder of a directory has written in its lock; nothing where there is none."""
    try:
        return (directory / LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _missing(directory: Path) -> list[Path]:
    """Returns the directories that would have to be made, the innermost first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


def _take(directory: Path) -> int:
    """Returns the open file of the lock, which is taken."""
    failed = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    for _ in range(_TRIES):  # the last holder may just be removing the file, or what it had made
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
            if _is_the_file(file, directory / LOCK):
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


def _is_the_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _sign(file: int) -> str:
    """Writes who holds the lock in its file, and returns it."""
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


_held: set[int] = set()


def _let_go() -> None:
    """Closes in a forked child what only its parent holds: the lock would otherwise last as long as the child."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
