"""The processes of a run meet before JAX does, at the same port: so they know that all are there, and of one run.

Each of the others connects to process 0, which answers with a word that says who listens, takes down what they say of
themselves, and tells all of them at once whether it is the same. Nothing of JAX's is used: its coordination service
ends all processes of a run where one comes that does not belong to it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import time
from typing import Any, NamedTuple

from rnnjax.errors import ClusterError, ConfigError
from rnnjax.parallel.agreement import Said, difference
from rnnjax.whole_numbers import whole_number

_WORD = b"the processes of a run of rnnjax meet here\n"
_SILENCE = 15.0  # seconds in which whoever listens has to say so
_SHYNESS = 4.0  # seconds in which whoever comes has to say who it is: the next one waits meanwhile
_AGAIN = 0.1  # seconds between two tries to reach process 0
_LONGEST = 2**20  # bytes of what one says


class Place(NamedTuple):
    """Where the processes meet, and who this one is.

    Attributes:
      coordinator: ``HOST:PORT`` of process 0.
      process_id: from 0.
      processes: how many there are.
      timeout: seconds in which all must have come.
    """

    coordinator: str
    process_id: int
    processes: int
    timeout: float


def meet(place: Place, said: Said) -> None:
    """Returns once all processes of the run have come and say the same.

    Raises:
      ConfigError: in all of them, if they do not.
      ClusterError: if they have not all come in time, or something else listens where they meet.
    """
    if place.processes == 1:
        return
    deadline = time.monotonic() + place.timeout
    sentence = _host(place, said, deadline) if place.process_id == 0 else _attend(place, said, deadline)
    if sentence is not None:
        raise ConfigError(sentence)


def _host(place: Place, said: Said, deadline: float) -> str | None:
    """Returns what all are told: None, or what is not the same."""
    with _listener(place.coordinator) as listener, contextlib.ExitStack() as guests:
        came = _gather(listener, guests, place, deadline)
        sentence = difference([said, *(came[process].said for process in sorted(came))])
        for guest in came.values():
            guest.tell(sentence)
        for guest in came.values():
            guest.wait_until_gone()  # they close first, so that the port is free at once
    return sentence


class _Guest:
    """A connection from another process of the run."""

    def __init__(self, connection: socket.socket):
        self.connection, self.process_id = connection, -1
        self.said: Said = {}

    def introduce(self) -> None:
        """Raises `OSError` or `ValueError` where it is no process of a run."""
        self.connection.settimeout(_SHYNESS)
        self.connection.sendall(_WORD)
        hello = _read_line(self.connection)
        self.process_id, self.said = int(hello["process_id"]), dict(hello["said"])

    def tell(self, sentence: str | None) -> None:
        with contextlib.suppress(OSError):  # one that is gone by now will be missed by JAX
            self.connection.sendall(_line({"sentence": sentence}))

    def wait_until_gone(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.recv(1)


def _gather(listener: socket.socket, guests: contextlib.ExitStack, place: Place, deadline: float) -> dict[int, _Guest]:
    """Returns the guests by their numbers, once all are there; who goes again meanwhile may come again."""
    came: dict[int, _Guest] = {}
    with selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ)
        while len(came) < place.processes - 1:
            ready = events.select(deadline - time.monotonic())
            if time.monotonic() >= deadline:
                missing = ", ".join(str(each) for each in range(1, place.processes) if each not in came)
                raise ClusterError(_APART.format(place.coordinator, place.timeout, f"still missing: {missing}"))
            for key, _ in ready:
                if key.fileobj is listener:
                    guest = _welcome(listener, guests, came)
                    if guest is not None:
                        events.register(guest.connection, selectors.EVENT_READ, guest)
                else:
                    events.unregister(key.fileobj)
                    del came[key.data.process_id]
    return came


def _welcome(listener: socket.socket, guests: contextlib.ExitStack, came: dict[int, _Guest]) -> _Guest | None:
    """Lets the next guest in, and returns it; None where it is no process of the run."""
    connection, _ = listener.accept()
    guest = _Guest(guests.enter_context(connection))
    try:
        guest.introduce()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        connection.close()
        return None
    if guest.process_id in came or guest.process_id < 1:
        guest.tell(f"--process_id {guest.process_id} is given to two processes of this run; give each its own")
        connection.close()
        return None
    came[guest.process_id] = guest
    return guest


def _attend(place: Place, said: Said, deadline: float) -> str | None:
    """Returns what process 0 tells all: None, or what is not the same."""
    with _reach(place, deadline) as connection:
        try:
            connection.sendall(_line({"process_id": place.process_id, "said": said}))
            connection.settimeout(max(deadline + _SILENCE - time.monotonic(), _AGAIN))  # its own patience ends first
            return _read_line(connection)["sentence"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = f"process 0 is gone again: {error or type(error).__name__}"
            raise ClusterError(_APART.format(place.coordinator, place.timeout, reason)) from error


def _reach(place: Place, deadline: float) -> socket.socket:
    """Returns a connection to process 0, for which it waits."""
    host, _, port = place.coordinator.rpartition(":")
    while True:
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_SILENCE)
            if _is_process_0(connection, place.coordinator):
                return connection
            connection.close()
            reason = "the connection is closed"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() >= deadline:
            raise ClusterError(_APART.format(place.coordinator, place.timeout, reason))
        time.sleep(_AGAIN)


def _is_process_0(connection: socket.socket, coordinator: str) -> bool:
    """Says whether process 0 listens at the other end; False where it is closed.

    Raises:
      ClusterError: if somebody else does.
    """
    word = b""
    with contextlib.suppress(ConnectionError):
        try:
            while len(word) < len(_WORD) and _WORD.startswith(word):
                more = connection.recv(len(_WORD) - len(word))
                if not more:
                    return False
                word += more
        except TimeoutError:
            word = b"?"
        if word == _WORD:
            return True
        connection.close()
        raise ClusterError(
            f"at {coordinator} something else listens than process 0 of this run, such as another run, or this one "
            "without you; choose another port for --coordinator, or start all processes again"
        )
    return False


def _listener(coordinator: str) -> socket.socket:
    """Returns a socket that listens where JAX will, alone.

    Raises:
      ClusterError: if the port is in use, or may not be taken.
    """
    address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or f"[::]:{coordinator.rpartition(':')[2]}"
    host, _, port = address.rpartition(":")
    number = whole_number(port) or 0
    try:
        return _listen(host.strip("[]"), number)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ClusterError(
                f"port {number} of this machine is in use, maybe by another run; choose another for --coordinator"
            ) from error
        raise ClusterError(
            f"this machine cannot listen at {address} ({error.strerror or error}); choose another --coordinator"
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    every = host in ("::", "")
    if every and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise  # otherwise IPv6 is there but switched off
    if every:
        return socket.create_server(("", port))
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read_line(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as file:
        line = file.readline(_LONGEST)
    if not line.endswith(b"\n"):
        raise ValueError("the connection is closed")
    return json.loads(line)


_APART = (
    "the processes of this run did not all meet at {} within {:g} s ({}); see that each is started and can reach "
    "process 0"
)
