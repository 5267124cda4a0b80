"""What a command tells Python before it imports anything that takes long; a program of the user's own is left alone.

Ctrl-C ends it at once, as SIGTERM does, until training installs its own handlers for both. Otherwise Python raises
`KeyboardInterrupt` anywhere: during imports, where it cannot be turned into a message, or in callbacks of the garbage
collector, such as JAX's, where it is printed and ignored.

Garbage is collected rarely: importing makes hundreds of thousands of objects that stay, which Python would look through
many times. For the same reason the process ends without freeing them one by one.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import NoReturn

_NEW_OBJECTS = 50_000  # from one collection to the next; Python's default is 700

_exit_code: int | None = None  # of a command that has done all it had to do, and only ends


def is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Says whether this process was started as ``python -m rnnjax.COMMAND``, ``python -m rnnjax`` or ``rnnjax``.

    Args:
      argv: `sys.argv`, which begins with ``-m`` while Python looks for the module.
      original: `sys.orig_argv`.
    """
    if list(argv[:1]) != ["-m"] or "-m" not in original[:-1]:
        return bool(argv) and PurePath(argv[0]).name == "rnnjax"
    module = original[list(original).index("-m") + 1]
    return module == "rnnjax" or module.startswith("rnnjax.")


def end_at_once_by_ctrl_c() -> None:
    """Restores the system's default action for SIGINT, unless this process was started with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_with(code: int) -> NoReturn:
    """Ends the process as `sys.exit` does; a command's without freeing what it has in memory."""
    global _exit_code
    _exit_code = code
    sys.exit(code)


def _leave() -> None:
    """Ends the process, if by `end_with`, unless what it printed cannot be written."""
    if _exit_code is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # Python tells of it
    os._exit(_exit_code)


if is_command(sys.argv, sys.orig_argv):
    end_at_once_by_ctrl_c()
    gc.set_threshold(_NEW_OBJECTS)
    atexit.register(_leave)  # what is registered first is called last, after what libraries have registered
