"""One writer for a directory."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from toytasks.runs import run_training, sign_config

from rnnjax.config_group import to_dict
from rnnjax.errors import ConfigError, DirectoryInUse
from rnnjax.training.directory import lock
from rnnjax.training.directory.lock import locked, mark_of
from rnnjax.training.directory.run_directory import RunDirectory


def test_a_directory_is_made_and_what_is_still_empty_is_removed_again(tmp_path):
    with locked(tmp_path / "a" / "b") as mark:
        assert mark_of(tmp_path / "a" / "b") == mark
        assert f'"pid": {os.getpid()}' in mark
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]
    assert mark_of(tmp_path / "a" / "b") == ""


def test_an_empty_directory_that_was_there_is_left(tmp_path):
    with locked(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_second_holder_is_refused_with_the_name_of_the_first(tmp_path):
    with locked(tmp_path), pytest.raises(DirectoryInUse) as refused, locked(tmp_path):
        pass
    message = str(refused.value)
    assert f"{tmp_path} is in use by process {os.getpid()} on {os.uname().nodename} since 20" in message
    assert "wait until it ends, or choose another --workdir" in message
    with locked(tmp_path):
        pass


def test_a_holder_that_is_refused_leaves_the_first_ones_lock(tmp_path):
    with locked(tmp_path) as mark:
        with pytest.raises(DirectoryInUse), locked(tmp_path):
            pass
        assert mark_of(tmp_path) == mark
        with pytest.raises(DirectoryInUse), locked(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}', 9999 * "[", "\x00"])
def test_a_holder_that_cannot_be_read_is_another_process(content, tmp_path):
    with locked(tmp_path):
        (tmp_path / "lock").write_text(content)
        with pytest.raises(DirectoryInUse, match="in use by another process; wait"), locked(tmp_path):
            pass


def test_training_called_from_python_writes_alone_and_its_lock_ends_with_it(tmp_path, monkeypatch):
    def begin(run, model):
        assert mark_of(run.path)
        with pytest.raises(DirectoryInUse, match="choose another --workdir"):
            run_training(run.path, sign_config())
        raise ConfigError("the first one fails too")

    monkeypatch.setattr(RunDirectory, "keep_model", begin)
    with pytest.raises(ConfigError, match="the first one fails too"):
        run_training(tmp_path, sign_config())
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_a_run_that_the_command_has_locked_is_not_locked_against_itself(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.locked() as mark, run.locked() as same:
        assert mark == same == mark_of(run.path)
    with run.locked():
        assert mark_of(run.path)
    assert not run.path.exists()


HOLDER = """
import os, sys
from pathlib import Path
from rnnjax.training.directory.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print("forked", flush=True)
        sys.stdin.read()  # a child that lives on
        os._exit(0)
    os.wait()
"""


def test_a_process_that_is_killed_holds_nothing_any_more_though_a_child_of_it_lives(tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "forked\n"
        with pytest.raises(DirectoryInUse, match=f"in use by process {holder.pid} on"), locked(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert [file.name for file in path.iterdir()] == ["lock"]  # it had no time to remove it
        RunDirectory(path).check(to_dict(sign_config()))
        with locked(path):
            RunDirectory(path).claim(to_dict(sign_config()))
    assert [file.name for file in path.iterdir()] == ["config.json"]


def test_a_lock_that_the_last_holder_removes_is_not_taken_for_ours(tmp_path, monkeypatch):
    real, calls = lock._lock, []

    def removed_meanwhile(file, directory):
        real(file, directory)
        if not calls:
            (directory / "lock").unlink()
        calls.append(file)

    monkeypatch.setattr(lock, "_lock", removed_meanwhile)
    with locked(tmp_path), pytest.raises(DirectoryInUse), locked(tmp_path):
        pass
    assert len(calls) == 2


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_gone_on_with_after_a_warning(number, tmp_path, monkeypatch, caplog):
    def no_locks(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with locked(tmp_path) as mark:
        assert mark_of(tmp_path) == mark
    (said,) = caplog.messages
    assert said == f"the file system of {tmp_path} keeps no locks: see that no other process writes there"


def test_a_platform_without_locks_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_place_where_no_lock_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "lock").symlink_to(tmp_path / "file")
    for path in ("/proc/run", tmp_path / "file", tmp_path / "file" / "below", tmp_path / "linked"):
        with (
            pytest.raises(ConfigError, match=f"{path} cannot be used .*; choose another --workdir"),
            locked(type(tmp_path)(path)),
        ):
            pass
    assert (tmp_path / "file").read_text() == "mine"
