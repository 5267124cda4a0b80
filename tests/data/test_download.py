"""Downloads that break off are thrown away and tried again; what is kept is whole."""

import contextlib
import logging
import socket
import threading

import pytest

from rnnjax.data.download import downloaded
from rnnjax.errors import DataError

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext"
BROKEN = {
    "too short": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntext", "4 of 9 bytes came"),
    "nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "0 of 9 bytes came"),
    "no answer": (b"", "Remote end closed connection"),
    "no HTTP": (b"220 mail ready\r\n\r\n", "220 mail ready"),
    "chunk cut": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nte", "IncompleteRead"),
    "chunk of no size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\ntext", "IncompleteRead"),
    "header too long": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "got more than 65536 bytes"),
    "length of no number": (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\ntext", "4 of many bytes came"),
}


@pytest.fixture
def serve():
    """Serves one answer after the other, each to one connection; returns the address."""
    with contextlib.ExitStack() as stack:

        def start(*answers):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listening.settimeout(20)
            thread = threading.Thread(target=answer_all, args=(listening, answers), daemon=True)
            thread.start()
            stack.callback(thread.join, 20)
            return f"http://127.0.0.1:{listening.getsockname()[1]}/input.txt"

        yield start


def answer_all(listening, answers):
    for answer in answers:
        with contextlib.suppress(OSError), listening.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(("answer", "message"), BROKEN.values(), ids=BROKEN)
def test_a_download_that_breaks_off_is_said_and_tried_again(answer, message, serve, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path = downloaded(serve(answer, WHOLE), "made", "input.txt", str(tmp_path))
    assert path.read_bytes() == b"text"
    assert [file.name for file in path.parent.iterdir()] == ["input.txt"]
    (said,) = caplog.messages
    assert message in said
    assert "is tried again (try 2 of 3)" in said


@pytest.mark.parametrize(("answer", "message"), BROKEN.values(), ids=BROKEN)
def test_a_download_that_always_breaks_off_leaves_nothing_and_one_sentence(answer, message, serve, tmp_path):
    with pytest.raises(DataError, match=r"made cannot be downloaded from .*name its folder") as error:
        downloaded(serve(answer, answer, answer), "made", "input.txt", str(tmp_path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "rnnjax_made").iterdir())


def test_what_the_server_refuses_is_not_tried_again(serve, tmp_path, caplog):
    with pytest.raises(DataError, match="404"):
        downloaded(serve(b"HTTP/1.1 404 Not Found\r\n\r\n"), "made", "input.txt", str(tmp_path))
    assert caplog.messages == []


def test_a_home_that_is_not_there_is_taken_as_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source.txt"
    source.write_text("text")
    path = downloaded(source.as_uri(), "made", "input.txt", "~nobody-of-this-name/data")
    assert path.read_text() == "text"
