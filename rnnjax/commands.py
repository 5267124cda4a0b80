"""What the commands share: messages and exit codes of errors, and the options for a trained run."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rnnjax.backend import without_device
from rnnjax.errors import (
    FAILED,
    STOPPED,
    USAGE,
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    DirectoryInUse,
    TrainingError,
    first_line,
)
from rnnjax.flag_parser import FlagParser
from rnnjax.starting import end_with
from rnnjax.training.directory.trust import TRUST

_log = logging.getLogger(__name__)

_LONGEST = 1500  # characters of a message


def exit_code(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit code, and prints a message of one sentence if it failed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    _keep_libraries_quiet()
    try:
        main(arguments)
    except ConfigError as error:
        return _say(error, USAGE)
    except (DataError, CheckpointError, ClusterError, DirectoryInUse, TrainingError) as error:
        return _say(error, FAILED)
    except MemoryError as error:
        return _say(_MEMORY.format(first_line(error)), FAILED)
    except BrokenPipeError:  # for example with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail again at exit
        return _say("the output is no longer read", FAILED)
    except UnicodeEncodeError as error:
        return _say(f"the output cannot be written as {error.encoding}; set PYTHONIOENCODING=utf-8", FAILED)
    except OSError as error:
        if error.errno is None:
            raise
        where = error.filename or "writing to the work directory"
        return _say(f"{where}: {os.strerror(error.errno)}; repair that, then run again to resume", FAILED)
    except (RuntimeError, AssertionError) as error:
        if "RESOURCE_EXHAUSTED" in str(error):  # XLA's message if a device's memory is full
            return _say(_MEMORY.format(first_line(error)), FAILED)
        sentence = without_device(error)
        if sentence is None:
            raise
        return _say(sentence, USAGE)
    except KeyboardInterrupt:
        return _say("stopped at once, without a checkpoint of the last steps; run again to resume", 130)
    return 0


def end(code: int) -> NoReturn:
    """Ends the process of a command.

    After an error it does not wait for threads that a library has left, such as those of orbax after a failed save:
    Python would wait for minutes.
    """
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if code and not all(thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end_with(code)


_MEMORY = "the memory is exhausted ({}); choose a smaller batch_size, a smaller model or shorter sequences"


def _keep_libraries_quiet() -> None:
    """Silences the logs of libraries about errors that they also raise, which are reported here."""
    for name in ("absl", "asyncio", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("jax").setLevel(logging.ERROR)
    leave_out_reads_given_up(sys.__unraisablehook__)


def leave_out_reads_given_up(hook: Callable[[sys.UnraisableHookArgs], Any]) -> None:
    """Makes a hook report errors that Python cannot raise, except for those of reads of a damaged checkpoint.

    Orbax starts many reads and waits only for the first that fails; the others then report to a closed event loop.
    """

    def filtered_hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed" and not inspect.iscoroutine(unraisable.object):
            hook(unraisable)

    sys.unraisablehook = filtered_hook


def _say(message: object, code: int) -> int:
    text = " ".join(str(message).splitlines())  # what it quotes may have several lines, or be long
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 200]} ... {text[-200:]}"
    print(f"rnnjax: {text}", file=sys.stderr, flush=True)
    distributed = sys.modules.get("rnnjax.parallel.distributed")
    if distributed is not None:
        distributed.leave_at_once(code)
    return code


def run_parser(command: str, description: str) -> FlagParser:
    """Returns a parser with the options of all commands that use a trained run."""
    parser = FlagParser(description, prog=f"python -m rnnjax.{command}")
    parser.add_argument("directory", help="run directory, or SWEEP/best, or SWEEP/N for run N of a sweep")
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"], help="which one (default: best)")
    parser.add_argument("--data", metavar="PATH", help="file or folder of data, in place of the run's own")
    parser.add_argument(
        "--trust",
        action="store_true",
        default=os.environ.get(TRUST) == "1",
        help=f"run code outside rnnjax that the run's config names, as {TRUST}=1 does for all commands",
    )
    return parser


@contextlib.contextmanager
def data_named_by(flag: str) -> Iterator[None]:
    """Within it errors of data name the flag of the command, where it is not the one of a config."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("--config.data.path", flag)) from error


HELP = {"-h", "--help"}


def help_of_config(about: str, arguments: Sequence[str]) -> str:
    """Returns how a command is used, and where its arguments name a config, that config's variants and fields.

    Args:
      about: what the command's module says of itself.
      arguments: those of the config, as `rnnjax.config_flags.open_config` takes them.

    Raises:
      ConfigError: for a config that cannot be read, or flags of it that cannot be meant.
    """
    from rnnjax.config_flags import open_config
    from rnnjax.config_help import help_text

    if not any(re.match("--?config(=|$)", argument) for argument in arguments):
        return f"{about}\nWith --config FILE.py --help it lists the file's variants and every field of its config."
    config, file, _ = open_config(arguments)
    return help_text(config, file)


@contextlib.contextmanager
def resumable(directory: Path) -> Iterator[None]:
    """Within it a signal that stops the run ends the command with code 75, and the log says how to resume."""
    from rnnjax.training.interruption import Interrupted

    try:
        yield
    except Interrupted as stopped:
        _log.info("%s; run again with --workdir %s to resume", stopped, directory)
        raise SystemExit(STOPPED) from None


def require_packages() -> None:
    """Raises `ConfigError` if the packages that training cannot do without are not installed."""
    try:
        import absl  # noqa: F401
        import orbax.checkpoint  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'the package {error.name} is missing; install with: pip install "rnnjax[train]"') from error
