"""What every benchmark is as a command: ``main(arguments)`` and ``parse(arguments)``, the same words, one end.

`main` runs it with the arguments after its name, and raises the library's errors; `parse` returns its options.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rnnjax.errors import FAILED, USAGE, CheckpointError, ConfigError, DataError, TrainingError


def run(main: Callable[[Sequence[str]], None], *, shares_device: bool = False) -> NoReturn:
    """Runs a benchmark as a command, and ends the process.

    Args:
      main: what the benchmark does with the arguments after its name.
      shares_device: whether others than JAX need memory of a GPU, most of which JAX would take at its start.
    """
    if shares_device:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sys.exit(exit_code(main, sys.argv[1:]))


def exit_code(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Runs a benchmark; returns its exit code, and prints one sentence if it could not do what was asked for.

    That of `rnnjax.commands` imports what training needs, which kernels are measured without.
    """
    try:
        main(arguments)
    except ConfigError as error:
        return _say(error, USAGE)
    except (DataError, CheckpointError, TrainingError) as error:
        return _say(error, FAILED)
    except KeyboardInterrupt:
        return _say("stopped; what is above is all that was measured", 130)
    return 0


def _say(message: object, code: int) -> int:
    print(f"rnnjax: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    return code


class Parser(argparse.ArgumentParser):
    """A parser of a benchmark's options that says what is wrong in one sentence, exit code 2.

    Args:
      name: the benchmark's, after ``python -m benchmarks.``.
      description: what it measures.
      epilog: what its figures mean.
    """

    def __init__(self, name: str, description: str, epilog: str = ""):
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(f"python -m benchmarks.{name}", None, description, epilog, formatter_class=shape)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\n")


class FiguresParser(Parser):
    """A parser of a benchmark that ends in rows of figures: with the words that all of these have.

    Args:
      name: the benchmark's, after ``python -m benchmarks.``.
      description: what it measures.
      epilog: what its figures mean.
      smoke: what options are with ``--smoke``, where they are not given.
    """

    def __init__(self, name: str, description: str, epilog: str = "", **smoke: Any):
        super().__init__(name, description, epilog)
        self._smoke = smoke
        self.add_argument("--json", type=output_path, metavar="PATH", help="write all figures here")
        self.add_argument("--smoke", action="store_true", help="sizes that take no time, for any machine")

    def add_seconds(self, default: float, what: str) -> None:
        """Adds ``--seconds``, the time that measuring takes."""
        self.add_argument("--seconds", type=positive, default=default, help=f"{what}; {default:g}")

    def options(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Returns the options that arguments give."""
        options = self.parse_args(arguments)
        if options.smoke:
            self.set_defaults(**self._smoke)
            options = self.parse_args(arguments)
        return options


def at_least_one(text: str) -> int:
    """Returns a whole number from 1, for `argparse`."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def positive(text: str) -> float:
    """Returns a number above 0, for `argparse`."""
    return _number(text, float, lambda value: value > 0, "a number above 0")


def not_negative(text: str) -> float:
    """Returns a number from 0, for `argparse`."""
    return _number(text, float, lambda value: value >= 0, "a number of at least 0")


def _number(text: str, kind: Callable[[str], Any], holds: Callable[[Any], bool], expected: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value) or not holds(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def output_path(text: str) -> Path:
    """Returns the path of a file that can be written, so that no long run ends without its file."""
    path = Path(text)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}: name a file in a folder that exists and is writable")
    return path
