"""The processes of a run meet before JAX does: here threads, which say what processes would."""

import json
import socket
import threading
import time

import jax
import pytest
from toytasks.config import get_config

from rnnjax.commands import exit_code
from rnnjax.errors import ClusterError, ConfigError, DataError, DirectoryInUse
from rnnjax.machine import versions
from rnnjax.parallel import agreement, meeting
from rnnjax.parallel.agreement import describe_run, difference
from rnnjax.parallel.meeting import Place, meet
from rnnjax.train import main
from rnnjax.training import opening
from rnnjax.training.directory.run_directory import RunDirectory

VERSIONS = {"python": "3.11.4", "jax": "0.10.2", "jaxlib": "0.10.2"}


def said(versions=VERSIONS, processes=2, **fields):
    config = get_config("long")
    for name, value in fields.items():
        group, _, field = name.rpartition("__")
        setattr(getattr(config, group) if group else config, field, value)
    return describe_run(config, versions, processes)


# What is compared


def test_processes_of_one_config_and_the_same_versions_fit():
    assert difference([said(), said(), said()]) is None


def test_where_the_data_is_may_differ():
    assert difference([said(), said(data__path="/there", data__tfds_dir="/other")]) is None


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (said(seed=1), "config.seed is 0 in process 0 and 1 in process 1; start all processes with the same arguments"),
        (said(cell__kind="LSTM"), "config.cell.kind is 'BasicRNN' in process 0 and 'LSTM' in process 1; start all"),
        (said(optimizer__clip_norm=0.5), "config.optimizer.clip_norm is None in process 0 and 0.5 in process 1"),
        (
            said(VERSIONS | {"jax": "0.12.0"}),
            "version.jax is '0.10.2' in process 0 and '0.12.0' in process 1; install the same versions",
        ),
        (said(VERSIONS | {"flax": "1"}), "version.flax is not there in process 0 and '1' in process 1; install"),
        (said(processes=3), "processes is 2 in process 0 and 3 in process 1; start all with the same --processes"),
        (
            said({**VERSIONS, "python": "3.13.0"}, epochs=3),
            "config.epochs is 40 in process 0 and 3 in process 1, version.python is '3.11.4' in process 0 and '3.13.0' "
            "in process 1; start all processes with the same arguments and install the same versions for all processes",
        ),
        ({}, "config is {"),
    ],
)
def test_what_differs_is_named_with_both_values(other, sentence):
    assert sentence in difference([said(), other])


def test_of_many_processes_the_first_that_differs_is_named():
    found = difference([said(), said(), said(seed=1), said(seed=2, epochs=1)])
    assert found.startswith("config.seed is 0 in process 0 and 1 in process 2, config.epochs is 40 in process 0 and 1")


def test_of_many_fields_some_are_shown_and_the_others_counted():
    fields = ["seed", "epochs", "evaluate_every", "batch_size", "steps_per_call", "log_every", "examples", "length"]
    found = difference([said(), said(**dict.fromkeys(fields, 99))])
    assert found.count(" in process 1") == 6
    assert "and 2 more differ; start all processes with the same arguments" in found


def test_the_versions_are_those_of_what_is_computed_with():
    assert versions().keys() >= {"python", "rnnjax", "jax", "jaxlib", "flax", "optax", "numpy"}


# How they meet


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def coordinator():
    return f"127.0.0.1:{free_port()}"


def ends(coordinator, *each, timeout=10.0, ids=None, of=None):
    """How a meeting ends in each of several processes: None, or the error's type and sentence."""
    found = [None] * len(each)

    def come(number, process_id):
        try:
            meet(Place(coordinator, process_id, of or len(each), timeout), each[number])
        except (ConfigError, ClusterError) as error:
            found[number] = (type(error), str(error))

    threads = [threading.Thread(target=come, args=pair) for pair in enumerate(ids or range(len(each)))]
    for thread in reversed(threads):  # the others are there first, and wait
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    return found


def test_all_that_say_the_same_go_on_and_the_port_is_free_again(coordinator):
    for _ in range(3):
        assert ends(coordinator, *[said()] * 4) == [None] * 4
    socket.create_server(("127.0.0.1", int(coordinator.rpartition(":")[2]))).close()


def test_all_end_with_the_same_sentence_where_one_says_something_else(coordinator):
    first, *others = ends(coordinator, said(), said(), said(seed=1))
    assert first[0] is ConfigError
    assert "config.seed is 0 in process 0 and 1 in process 2" in first[1]
    assert others == [first, first]


def test_a_process_alone_meets_nobody(coordinator):
    with socket.create_server(("127.0.0.1", int(coordinator.rpartition(":")[2]))):
        meet(Place(coordinator, 0, 1, 1.0), said())


def test_who_is_missing_is_named_and_a_number_given_twice_is_refused(coordinator):
    host, *others = ends(coordinator, *[said()] * 3, timeout=1.0, ids=[0, 1, 1])
    assert host[0] is ClusterError
    assert f"did not all meet at {coordinator} within 1 s (still missing: 2); see that each is started" in host[1]
    refused = [end for end in others if end[0] is ConfigError]
    assert refused == [(ConfigError, "--process_id 1 is given to two processes of this run; give each its own")]
    (waited,) = [sentence for kind, sentence in others if kind is ClusterError]
    assert "process 0 is gone again" in waited


ENDED = "process {} of this run has ended ({}); correct that, then start all again"


@pytest.mark.parametrize("ended", [0, 2])
def test_a_process_that_ends_before_it_has_a_run_ends_the_others_with_its_reason(ended, coordinator):
    told = [said()] * 3
    told[ended] = {meeting._ENDED: "no field 'lrate'"}
    assert ends(coordinator, *told) == [(ConfigError, ENDED.format(ended, "no field 'lrate'"))] * 3


def test_one_that_never_comes_is_not_waited_for_long_once_another_has_ended(coordinator, monkeypatch):
    monkeypatch.setattr(meeting, "_LAST_WORDS", 0.3)
    found = ends(coordinator, said(), {meeting._ENDED: "no"}, ids=[0, 1], of=3, timeout=100.0)
    assert found == [(ConfigError, ENDED.format(1, "no"))] * 2
    meeting.give_up(Place(coordinator, 0, 2, 100.0), "nobody hears this")


def test_arguments_that_only_process_0_gets_wrong_end_the_others_too(coordinator, tmp_path, capsys):
    other = []
    thread = threading.Thread(target=lambda: other.extend(ends(coordinator, said(), ids=[1], of=2)))
    thread.start()
    place = ["--coordinator", coordinator, "--process_id", "0", "--processes", "2", "--workdir", str(tmp_path / "run")]
    assert exit_code(main, [*CONFIG, "--config.lrate=1", *place]) == 2
    thread.join()
    (own,) = capsys.readouterr().err.splitlines()
    assert "lrate" in own
    assert other == [(ConfigError, ENDED.format(0, own.removeprefix("rnnjax: ")))]


def test_process_0_that_never_comes_ends_the_others(coordinator):
    with pytest.raises(
        ClusterError, match=r"did not all meet at .* within 0.3 s \(Connection refused\); see that .* has not ended"
    ):
        meet(Place(coordinator, 1, 2, 0.3), said())


def test_one_that_goes_before_all_are_there_may_come_again(coordinator):
    port = int(coordinator.rpartition(":")[2])
    host = threading.Thread(target=lambda: meet(Place(coordinator, 0, 3, 10.0), said()))
    host.start()
    hello = json.dumps({"process_id": 1, "description": said(seed=9)}).encode() + b"\n"
    connection = connect(port)
    connection.sendall(hello)
    time.sleep(0.2)
    connection.close()
    time.sleep(0.2)
    assert ends(coordinator, said(), said(), ids=[1, 2], of=3) == [None, None]
    host.join()


def connect(port):
    """A connection, once somebody listens."""
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            time.sleep(0.05)
    raise AssertionError


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"process_id": "x", "description": 3}\n', b""])
def test_who_is_no_process_of_the_run_is_shown_out(noise, coordinator, monkeypatch):
    monkeypatch.setattr(meeting, "_INTRODUCTION_TIMEOUT", 0.5)
    end = []
    host = threading.Thread(target=lambda: end.append(meet(Place(coordinator, 0, 2, 10.0), said())))
    host.start()
    with connect(int(coordinator.rpartition(":")[2])) as stranger:
        stranger.sendall(noise)
        meet(Place(coordinator, 1, 2, 10.0), said())
    host.join()
    assert end == [None]


# A port that something else has


def listening(answer):
    """Something that listens and answers everybody with a word; and where."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        held = []
        while True:
            try:
                held.append(server.accept()[0])
                held[-1].sendall(answer)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return server, f"127.0.0.1:{server.getsockname()[1]}"


CONFIG = ["--config", f"{__file__.rpartition('/parallel/')[0]}/training/toytasks/config.py:long"]


@pytest.mark.parametrize("answer", [b"", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", b"220 smtp\r\n"])
def test_a_port_in_use_ends_all_processes_with_1_and_one_sentence_and_soon(answer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(meeting, "_GREETING_TIMEOUT", 0.5)
    server, coordinator = listening(answer)
    with server:
        for process, sentence in (
            (0, f"port {coordinator.rpartition(':')[2]} of this machine is in use, maybe by another run; choose"),
            (1, f"something other than process 0 of this run listens at {coordinator}"),
        ):
            place = ["--coordinator", coordinator, "--process_id", str(process), "--processes", "2"]
            assert exit_code(main, [*CONFIG, *place, "--workdir", str(tmp_path / "run")]) == 1
            (said,) = capsys.readouterr().err.splitlines()
            assert sentence in said
            assert "another" in said
    assert not (tmp_path / "run").exists()


# Errors of one that are errors of all


@pytest.fixture
def other_says(monkeypatch):
    """Makes this process the first of two, and the second one say something."""

    def says(said):
        monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
        monkeypatch.setattr(agreement.jax, "process_index", lambda: 0)
        monkeypatch.setattr(agreement, "gather_json", lambda value: [json.loads(json.dumps(value)), said])

    return says


def fails(error):
    raise error


def test_what_every_process_returns_is_known_to_all(other_says):
    assert agreement.in_all_processes(lambda: 1) == [1]
    other_says({"value": {"a": 2}})
    assert agreement.in_all_processes(lambda: 1) == [1, {"a": 2}]


@pytest.mark.parametrize("kind", [ConfigError, DataError, DirectoryInUse])
def test_an_error_of_another_process_is_raised_here_and_one_here_is_raised_as_it_is(kind, other_says):
    with pytest.raises(kind, match="mine"):
        agreement.in_all_processes(lambda: fails(kind("mine")))
    other_says({"error": kind.__name__, "sentence": "no digits there"})
    with pytest.raises(agreement.CollectiveError) as raised:
        agreement.in_all_processes(lambda: 1)
    assert type(raised.value.error) is kind
    assert str(raised.value.error) == "no digits there"
    other_says({"value": 1})
    mine = kind("mine")
    with pytest.raises(agreement.CollectiveError) as raised:
        agreement.in_all_processes(lambda: fails(mine))
    assert raised.value.error is mine


# One directory of all


def opening_as(process, path, other_says, monkeypatch):
    """Opens a run directory as one of two processes; the other says something each time that both say something."""

    def gather(own):
        return [own, next(words)] if process == 0 else [next(words), own]

    words = iter(other_says)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(agreement, "gather_json", gather)
    monkeypatch.setattr(opening, "_VISIBLE_WITHIN", 0.0)
    with pytest.raises(agreement.CollectiveError) as raised, opening.opened(RunDirectory(path, writes=not process), {}):
        pytest.fail("opened")
    assert type(raised.value.error) is ConfigError
    return str(raised.value.error)


def test_directories_that_differ_end_both_processes_and_none_is_left(tmp_path, monkeypatch):
    said = {"value": {"path": str(tmp_path / "0"), "mark": "that of process 0"}}
    sentence = opening_as(1, tmp_path / "1", [said, {"value": None}], monkeypatch)
    assert sentence == (
        f"--workdir is {tmp_path / '0'} in process 0, but {tmp_path / '1'} in process 1; "
        "give all one directory that all of them reach"
    )
    told = [{"value": {}}, {"error": "ConfigError", "sentence": sentence}]
    assert opening_as(0, tmp_path / "0", told, monkeypatch) == sentence
    assert not list(tmp_path.iterdir())
