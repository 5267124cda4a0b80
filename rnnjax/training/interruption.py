"""Stops a run on a signal, at a point where it can be resumed."""

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
    """Raised when a run has stopped because of a signal; it can be resumed."""


class _StoppedNow(BaseException):
    """Raised by a signal handler; not an `Exception`, so that no library handles it."""


class StopRequest:
    """A context in which SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it at once.

    Attributes:
      signal: name of the signal that was received, None if there was none.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._original_handlers: dict[int, Any] = {}
        self._raises = False

    def __enter__(self) -> StopRequest:
        self._original_handlers = {number: signal.getsignal(number) for number in _NUMBERS}
        self._watcher = contextlib.ExitStack()
        self._watcher.enter_context(_second_ends_it([number for number in _NUMBERS if self._by_default(number)]))
        for number in _NUMBERS:
            signal.signal(number, self._note)
        return self

    def _by_default(self, number: int) -> bool:
        return self._original_handlers[number] in (signal.SIG_DFL, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        for other, handler in self._original_handlers.items():
            signal.signal(other, signal.SIG_DFL if self._by_default(other) else handler)
        self._stop_now()

    def _stop_now(self, *_: Any) -> None:
        if self._raises:
            raise _StoppedNow

    def of_any_process(self) -> str | None:
        """Returns the name of a signal that any process of the run has received, or None; all must call this."""
        number = maximum_over_processes(None if self.signal is None else signal.Signals[self.signal].value)
        return None if number is None else signal.Signals(number).name

    def unless_stopped(self, function: Callable[[], T]) -> T | None:
        """Returns what a function returns; None if a signal interrupts it, which it does at any point."""
        try:
            with _raise_again_if_ignored(self._stop_now):
                try:
                    self._raises = True
                    return function() if self.signal is None else None
                finally:
                    self._raises = False
        except _StoppedNow:
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.close()
        for number, handler in self._original_handlers.items():
            signal.signal(number, handler)
        self._original_handlers = {}


@contextlib.contextmanager
def _raise_again_if_ignored(handler: Callable[..., None]) -> Iterator[None]:
    """A context in which `handler` is called again, by an alarm, if Python ignores the exception that it raised.

    Python prints and ignores exceptions that are raised in `__del__`, and in callbacks such as those that JAX registers
    with the garbage collector. A signal may arrive in one of them.
    """
    original_hook = sys.unraisablehook
    original_handler = signal.signal(signal.SIGALRM, handler)

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is _StoppedNow:
            signal.setitimer(signal.ITIMER_REAL, _RAISE_AFTER)
        else:
            original_hook(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = original_hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, original_handler)


_RAISE_AFTER = 0.01  # seconds

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def _second_ends_it(numbers: list[int]) -> Iterator[None]:
    """A context in which, after a first signal, a second one ends the process even while it runs compiled code.

    Python calls signal handlers only after compiled code has returned. But Python's C code writes the number of every
    signal to a socket at once, and a thread that reads from it restores the default action of the signals.

    Args:
      numbers: the signals whose default action is restored.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    original_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while number := receiver.recv(1):
            if number[0] in _NUMBERS:
                restore_defaults()

    def restore_defaults() -> None:
        for number in numbers:
            ctypes.CDLL(None).signal(number, None)  # None is the default action

    with receiver, sender:
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(original_fd)
            sender.shutdown(socket.SHUT_WR)
            thread.join()
