"""Stopping on a signal, at a moment of the program's own choosing."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from rnnjax.parallel.distributed import agreed


class Interrupted(Exception):
    """A run that was asked to stop has written a checkpoint; run again to go on."""


class StopRequest:
    """While it is entered, SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._restore()

    def of_any_process(self) -> str | None:
        """Returns the signal that this process or another of the run was sent; all of them must ask together."""
        number = agreed(None if self.signal is None else signal.Signals[self.signal].value)
        return None if number is None else signal.Signals(number).name

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
