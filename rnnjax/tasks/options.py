"""Options of generation: what those mean that tasks have in common, and which of them a task has.

A task has the options that are keyword arguments of its `generate`, with the defaults that stand there.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rnnjax.errors import require

MOST_BEAMS = 1000
_MOST_STEPS = 1_000_000  # all are the result of one program, which is held in memory
_LOWEST_TEMPERATURE = 1e-4  # below it, logits divided by the temperature may overflow

_GIVEN_ANYWAY = ("lines", "plots")  # no options: they come with the command


class Range(NamedTuple):
    """The values that an option may have: a test, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


RANGES = {
    "prompt": Range(lambda text: isinstance(text, str), "text"),
    "length": Range(lambda steps: 1 <= steps <= _MOST_STEPS, f"from 1 to {_MOST_STEPS}"),
    "temperature": Range(
        lambda heat: heat == 0 or _LOWEST_TEMPERATURE <= heat < math.inf, f"0, or {_LOWEST_TEMPERATURE} or above"
    ),
    "top_k": Range(lambda k: k >= 1, "at least 1"),
    "top_p": Range(lambda p: 0 < p <= 1, "above 0 and at most 1"),
    "seed": Range(lambda seed: 0 <= seed < 2**32, f"from 0 to {2**32 - 1}"),
    "beam_size": Range(lambda width: 1 <= width <= MOST_BEAMS, f"from 1 to {MOST_BEAMS}"),
    "n_best": Range(lambda n: n >= 1, "at least 1"),
}


def options_of(function: Callable) -> dict[str, Any]:
    """Returns the defaults of a function's options, by their names."""
    return {name: default for name, default in _keywords(function).items() if name not in _GIVEN_ANYWAY}


def taken(function: Callable, context: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a function takes of what a command has beside options."""
    return {name: value for name, value in context.items() if name in _keywords(function)}


def _keywords(function: Callable) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


def require_options(function: Callable, given: Mapping[str, Any], who: str, *, prefix: str = "") -> None:
    """Raises `ConfigError` for an option that a function has not, or one out of its range.

    Args:
      function: a task's `generate`, or how it answers a step.
      given: options by name.
      who: has the options, for the message.
      prefix: what stands before the name of an option in messages.
    """

    def shown(name: str) -> str:
        return prefix + (name.replace("_", "-") if prefix else name)

    has = options_of(function)
    takes = ", ".join(map(shown, has)) or "no options"
    for name, value in given.items():
        require(name in has, f"{who} takes {takes}: leave {shown(name)} out")
        if name in RANGES and value is not None:
            require(RANGES[name].holds(value), f"{shown(name)} must be {RANGES[name].words}, got {value!r}")
