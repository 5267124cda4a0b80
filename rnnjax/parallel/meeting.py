"""The processes of a run connect before JAX does, at the same port, to check that all are there and of the same run.

Each of the others connects to process 0, which answers with a greeting, receives a description of their run, and tells
all of them at once whether their descriptions agree. A process that ends before it has a run to describe, over its own
arguments for example, says that instead. JAX's coordination service cannot do this: it ends all processes
of a run if a process connects that does not belong to it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from rnnjax.errors import ClusterError, ConfigError
from rnnjax.parallel.agreement import Description, difference
from rnnjax.whole_numbers import whole_number

_GREETING = b"the processes of a run of rnnjax meet here\n"
_GREETING_TIMEOUT = 15.0  # seconds within which process 0 must greet
_INTRODUCTION_TIMEOUT = 4.0  # seconds within which a process must introduce itself: others wait for as long
_RETRY_INTERVAL = 0.1  # seconds between two attempts to reach process 0
_LAST_WORDS = 15.0  # seconds for which others are waited for, to be told that a process has ended
_ENDED = "ended"  # in place of the description of a run: why there is none
_LONGEST_LINE = 2**20  # bytes


class Place(NamedTuple):
    """Where the processes meet, and which of them this one is.

    Attributes:
      coordinator: ``HOST:PORT`` of process 0.
      process_id: number of this process, from 0.
      processes: number of processes.
      timeout: seconds within which all must have connected.
    """

    coordinator: str
    process_id: int
    processes: int
    timeout: float


def meet(place: Place, description: Description) -> None:
    """Waits until all processes of the run have connected, and checks that their descriptions agree.

    Raises:
      ConfigError: in all processes, if the descriptions differ, or one process has ended over its arguments.
      ClusterError: if not all have connected in time, or something else listens at process 0's address.
    """
    if place.processes == 1:
        return
    deadline = time.monotonic() + place.timeout
    sentence = _host(place, description, deadline) if place.process_id == 0 else _join(place, description, deadline)
    if sentence is not None:
        raise ConfigError(sentence)


def give_up(place: Place, reason: str) -> None:
    """Tells the other processes of the run, which wait for this one, that it ends; returns after seconds.

    Args:
      place: where they meet.
      reason: why, in a sentence.
    """
    place = place._replace(timeout=min(place.timeout, _LAST_WORDS))
    with contextlib.suppress(ConfigError, ClusterError):  # this process has an error of its own to report
        meet(place, {_ENDED: reason})


def _verdict(descriptions: Mapping[int, Description]) -> str | None:
    """Returns a sentence if a process has ended, or if the descriptions differ; otherwise None."""
    for process, description in sorted(descriptions.items()):
        if _ENDED in description:
            return (
                f"process {process} of this run has ended ({description[_ENDED]}); correct that, then start all again"
            )
    return difference([descriptions[process] for process in sorted(descriptions)])


def _host(place: Place, description: Description, deadline: float) -> str | None:
    """Process 0's part. Returns the verdict that all are told: how descriptions differ, None if they agree."""
    with _listener(place.coordinator) as listener, contextlib.ExitStack() as connections:
        peers = _gather(listener, connections, place, deadline, ended=_ENDED in description)
        by_process = {0: description} | {process: peer.description for process, peer in peers.items()}
        verdict = _verdict(by_process)
        for peer in peers.values():
            peer.tell(verdict)
        for peer in peers.values():
            peer.wait_until_closed()  # they close first, so that the port is free at once
    return verdict


class _Peer:
    """A connection from another process of the run."""

    def __init__(self, connection: socket.socket):
        self.connection, self.process_id = connection, -1
        self.description: Description = {}

    def introduce(self) -> None:
        """Greets the peer, and reads which process it is. Raises `OSError` or `ValueError` if it is none of a run."""
        self.connection.settimeout(_INTRODUCTION_TIMEOUT)
        self.connection.sendall(_GREETING)
        introduction = _read_line(self.connection)
        self.process_id = int(introduction["process_id"])
        self.description = dict(introduction["description"])

    def tell(self, verdict: str | None) -> None:
        with contextlib.suppress(OSError):  # JAX will notice if it is lost by now
            self.connection.sendall(_line({"verdict": verdict}))

    def wait_until_closed(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.recv(1)


def _gather(
    listener: socket.socket, connections: contextlib.ExitStack, place: Place, deadline: float, ended: bool
) -> dict[int, _Peer]:
    """Returns the peers by their numbers when all have connected; one that disconnects earlier may connect again.

    Once a process has ended, perhaps this one, the others are waited for not much longer, and those that have come are
    returned.
    """
    peers: dict[int, _Peer] = {}
    with selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ)
        while len(peers) < place.processes - 1:
            # After the deadline this is negative, which does not wait.
            ready = events.select(deadline - time.monotonic())
            if time.monotonic() >= deadline:
                if ended:
                    return peers
                missing = ", ".join(str(each) for each in range(1, place.processes) if each not in peers)
                raise ClusterError(_TIMED_OUT.format(place.coordinator, place.timeout, f"still missing: {missing}"))
            for key, _ in ready:
                if key.fileobj is listener:
                    peer = _accept(listener, connections, peers)
                    if peer is not None:
                        events.register(peer.connection, selectors.EVENT_READ, peer)
                        if _ENDED in peer.description:
                            ended, deadline = True, min(deadline, time.monotonic() + _LAST_WORDS)
                else:  # a peer sends nothing after its introduction, so this is the end of its connection
                    events.unregister(key.fileobj)
                    del peers[key.data.process_id]
    return peers


def _accept(listener: socket.socket, connections: contextlib.ExitStack, peers: dict[int, _Peer]) -> _Peer | None:
    """Accepts a connection, and returns its peer; None if it is not a process of the run."""
    connection, _ = listener.accept()
    peer = _Peer(connections.enter_context(connection))
    try:
        peer.introduce()
    # Whatever a foreign program sends: no JSON, JSON of another form, or too deeply nested.
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        connection.close()
        return None
    if peer.process_id in peers or peer.process_id < 1:
        peer.tell(f"--process_id {peer.process_id} is given to two processes of this run; give each its own")
        connection.close()
        return None
    peers[peer.process_id] = peer
    return peer


def _join(place: Place, description: Description, deadline: float) -> str | None:
    """The part of all other processes. Returns process 0's verdict."""
    with _connect(place, deadline) as connection:
        try:
            connection.sendall(_line({"process_id": place.process_id, "description": description}))
            # Longer than process 0 waits for the others, so that its message about a timeout arrives.
            connection.settimeout(max(deadline + _GREETING_TIMEOUT - time.monotonic(), _RETRY_INTERVAL))
            return _read_line(connection)["verdict"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = f"process 0 is gone again: {error or type(error).__name__}"
            raise ClusterError(_TIMED_OUT.format(place.coordinator, place.timeout, reason)) from error


def _connect(place: Place, deadline: float) -> socket.socket:
    """Returns a connection to process 0, trying until the deadline."""
    host, _, port = place.coordinator.rpartition(":")
    while True:
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_GREETING_TIMEOUT)
            if _is_process_0(connection, place.coordinator):
                return connection
            connection.close()
            reason = "the connection is closed"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() >= deadline:
            raise ClusterError(_TIMED_OUT.format(place.coordinator, place.timeout, reason))
        time.sleep(_RETRY_INTERVAL)


def _is_process_0(connection: socket.socket, coordinator: str) -> bool:
    """Says whether process 0 greets at the other end; False if the connection is closed.

    Raises:
      ClusterError: if something else listens there.
    """
    greeting = b""
    with contextlib.suppress(ConnectionError):
        try:
            # Not read on after a wrong byte: something else may wait for an answer, and send no more.
            while len(greeting) < len(_GREETING) and _GREETING.startswith(greeting):
                received = connection.recv(len(_GREETING) - len(greeting))
                if not received:
                    return False
                greeting += received
        except TimeoutError:
            greeting = b""
        if greeting == _GREETING:
            return True
        connection.close()
        raise ClusterError(
            f"something other than process 0 of this run listens at {coordinator}, such as another run, or this run "
            "begun without this process; choose another port for --coordinator, or start all processes again"
        )
    return False


def _listener(coordinator: str) -> socket.socket:
    """Returns a socket that listens at the address at which JAX will listen later.

    Raises:
      ClusterError: if the port is in use, or cannot be listened at.
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
    all_interfaces = host in ("::", "")
    if all_interfaces and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            # Otherwise the system has IPv6, but it is disabled.
    if all_interfaces:
        return socket.create_server(("", port))
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read_line(connection: socket.socket) -> dict[str, Any]:
    # What the file has read ahead is lost with it: each side sends one line, so there is nothing.
    with connection.makefile("rb") as file:
        # A line that is cut off here, or by the end of the connection, has no end of line.
        line = file.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise ValueError("the connection is closed")
    return json.loads(line)


_TIMED_OUT = (
    "the processes of this run did not all meet at {} within {:g} s ({}); see that each is started, has not ended with "
    "a message of its own, and can reach process 0, or wait longer with --start_timeout"
)
