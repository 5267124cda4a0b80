"""Stopping on a signal, at a moment of the program's own choosing."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

from rnnjax.parallel.distributed import maximum_over_processes

T = TypeVar("T")


class Interrupted(Exception):
    """A run that was asked to stop has written a checkpoint; run again to resume."""


class _StoppedHere(BaseException):
    """Raised by a signal wherever the program is; no library takes it for an error of its own."""


class StopRequest:
    """While it is entered, SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[int, Any] = {}
        self._raises = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.getsignal(number) for number in _NUMBERS}
        self._apart = contextlib.ExitStack()
        self._apart.enter_context(_second_ends_it([number for number in _NUMBERS if self._by_default(number)]))
        for number in _NUMBERS:
            signal.signal(number, self._note)
        return self

    def _by_default(self, number: int) -> bool:
        return self._before[number] in (signal.SIG_DFL, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        for each in self._before:
            signal.signal(each, signal.SIG_DFL if self._by_default(each) else self._before[each])
        self._stop_here()

    def _stop_here(self, *_: Any) -> None:
        if self._raises:
            raise _StoppedHere

    def of_any_process(self) -> str | None:
        """Returns the signal that this process or another of the run was sent; all of them must ask together."""
        number = maximum_over_processes(None if self.signal is None else signal.Signals[self.signal].value)
        return None if number is None else signal.Signals(number).name

    def unless_stopped(self, work: Callable[[], T]) -> T | None:
        """Returns what some work gives; None where a signal has ended it, wherever it was."""
        try:
            with _raised_again(self._stop_here):
                try:
                    self._raises = True
                    return work() if self.signal is None else None
                finally:
                    self._raises = False
        except _StoppedHere:
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._apart.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextlib.contextmanager
def _raised_again(again: Callable[..., None]) -> Iterator[None]:
    """Within it, a stop that nothing above could take is raised `again` a moment later, by the alarm's handler.

    A signal may come within a callback, such as those that JAX has for the garbage collector, or within `__del__`: what
    is raised there is printed and forgotten.
    """
    before, alarm = sys.unraisablehook, signal.signal(signal.SIGALRM, again)

    def tell(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is _StoppedHere:
            signal.setitimer(signal.ITIMER_REAL, _MOMENT)
        else:
            before(unraisable)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = before
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)


_MOMENT = 0.01  # seconds

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def _second_ends_it(numbers: list[int]) -> Iterator[None]:
    """Within it, from the first signal on, some numbers end the process even while it is in compiled code.

    There Python runs no handler, such as that of the first, until the code returns. The system tells of each signal at
    once through a socket, though, and a thread that waits there gives later ones back to the system.
    """
    told, tells = socket.socketpair()
    tells.setblocking(False)
    before = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while number := told.recv(1):
            if number[0] in _NUMBERS:
                give_back()

    def give_back() -> None:
        for number in numbers:
            ctypes.CDLL(None).signal(number, None)  # None: its default

    with told, tells:
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            tells.shutdown(socket.SHUT_WR)
            thread.join()
