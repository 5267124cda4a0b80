"""A parser of flags whose errors are one sentence."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from rnnjax.errors import ConfigError


class FlagParser(argparse.ArgumentParser):
    """A parser that raises `ConfigError`; without a description it takes its own flags out of a command's."""

    def __init__(self, description: str | None = None, **options: Any):
        of_a_command = description is not None
        super().__init__(description=description, add_help=of_a_command, allow_abbrev=of_a_command, **options)

    def error(self, message: str) -> NoReturn:
        hint = f"; see {self.prog} --help" if self.add_help else ""
        raise ConfigError(_plain(message.removeprefix("argument ")) + hint)


_KINDS = {"int": "a whole number", "float": "a number"}


def _plain(message: str) -> str:
    """Returns argparse's message about a value of the wrong type without Python's name of that type."""
    return re.sub(r": invalid (int|float) value: ", lambda found: f" must be {_KINDS[found[1]]}, got ", message)
