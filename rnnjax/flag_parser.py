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


KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
"""What a value of a type must be, in words, by Python's name of the type."""

_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def truth(text: str) -> bool:
    """Returns what a text says, since `bool` takes any text but an empty one for true; raises ValueError."""
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


truth.__name__ = "bool"  # by which argparse names it


def _plain(message: str) -> str:
    """Returns argparse's message about a value of the wrong type without Python's name of that type."""
    return re.sub(r": invalid (int|float|bool) value: ", lambda found: f" must be {KINDS[found[1]]}, got ", message)
