"""What Ctrl-C does to a command: it ends it at once, as SIGTERM does, until training takes both for itself.

Python would raise `KeyboardInterrupt` wherever it is: among imports, where nothing of ours can say so in a sentence, or
in callbacks of the garbage collector, of which JAX has some, where it is printed and then forgotten.
"""

import signal
import sys
from collections.abc import Sequence


def is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Says whether this process is being started as ``python -m rnnjax.COMMAND``.

    Args:
      argv: `sys.argv`, whose first is ``-m`` as long as Python looks for the module.
      original: `sys.orig_argv`.
    """
    if list(argv[:1]) != ["-m"] or "-m" not in original[:-1]:
        return False
    return original[list(original).index("-m") + 1].startswith("rnnjax.")


def end_at_once_by_ctrl_c() -> None:
    """Leaves SIGINT to the system, unless this process was started to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if is_command(sys.argv, sys.orig_argv):
    end_at_once_by_ctrl_c()
