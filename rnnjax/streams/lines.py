"""Lines of text as steps of sessions, each answered as what follows the lines before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rnnjax.errors import DataError
from rnnjax.streams.sessions import Sessions


def answers(
    sessions: Sessions, lines: Iterable[str], read: Callable[[str], Iterable[Any]], say: Callable[[Any], str]
) -> Iterator[str]:
    """Yields an answer to each line, as soon as it is there.

    A line ``NAME<tab>TEXT`` belongs to the session of that name, which it begins if there is none; so does its answer.
    ``NAME<tab>`` ends the session, and is answered by the same. Lines without a tab are a session by themselves.

    Args:
      sessions: where lines are steps.
      lines: without line ends.
      read: returns the inputs of the steps that a text stands for; raises `ValueError` if it cannot.
      say: returns the answer from the outputs of the last step.

    Raises:
      DataError: for a line that is empty or cannot be read, or a session for which there is no slot.
    """
    for number, line in enumerate(lines, 1):
        name, tab, text = line.partition("\t") if "\t" in line else ("", "", line)
        try:
            yield name + tab + _answer(sessions, name, text, tab, read, say)
        except ValueError as error:
            raise DataError(f"line {number}: {error}") from error


def _answer(sessions: Sessions, name: str, text: str, tab: str, read: Callable, say: Callable) -> str:
    if tab and not text:
        sessions.close(name)
        return ""
    inputs = list(read(text))
    if not inputs:
        raise ValueError("there is nothing in it")
    if name not in sessions:
        sessions.open(name)
    outputs: Any = None
    for each in inputs:
        outputs = sessions.step({name: each})[name]
    return say(outputs)
