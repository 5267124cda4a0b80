"""A trace of a few training steps, by JAX's profiler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from rnnjax.errors import require
from rnnjax.flag_parser import FlagParser

_log = logging.getLogger(__name__)
_TRACED = 2  # the number of the call: the first one compiles


class Profile:
    """Makes calls of a program, and writes a trace of the second one, of eight steps or fewer where time bounds calls.

    Args:
      directory: for the trace; None writes none.
    """

    def __init__(self, directory: Path | None = None):
        self.directory, self._calls = directory, 0

    def __call__(self, program: Callable[..., Any], states: Any, *others: Any) -> Any:
        """Returns what the program returns of states and other arguments."""
        self._calls += 1
        if self.directory is None or self._calls != _TRACED:
            return program(states, *others)
        jax.block_until_ready(states)  # what is under way belongs to the call before
        with jax.profiler.trace(str(self.directory)):
            results = jax.block_until_ready(program(states, *others))
        _log.info("profile: %s has a trace of JAX's profiler", self.directory)
        return results

    def end(self) -> None:
        """Warns if there should be a trace, and there is none."""
        if self.directory is not None and self._calls < _TRACED:
            _log.warning("no profile was written: the run had %d of the %d calls it takes", self._calls, _TRACED)


def read_profile(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Returns where a profile is to be written, None if nowhere, and the arguments that say nothing of it.

    Raises:
      ConfigError: for a flag without a value, or with that of a file.
    """
    parser = FlagParser()
    parser.add_argument("--profile")
    options, rest = parser.parse_known_args(list(arguments))
    if options.profile is None:
        return None, rest
    directory = bool(options.profile) and not Path(options.profile).is_file()
    require(directory, f"--profile must name a directory for the trace, got {options.profile!r}")
    return Path(options.profile), rest
