"""A command that is stopped by a signal says how to go on, and going on ends as the run would have without a stop."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest
from test_resume import _signals_that_are_not_taken_fail, interrupt  # noqa: F401
from toytasks.config import get_config
from toytasks.runs import assert_same_run, last_checkpoint, run_training
from toytasks.sign import Config

from rnnjax.config_group import freeze, from_dict
from rnnjax.train import main
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.interruption import StopRequest

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def test_the_first_signal_is_noted_and_the_second_is_not():
    taken = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
    try:
        with StopRequest() as stop:
            assert stop.signal is None
            signal.raise_signal(signal.SIGTERM)
            assert stop.signal == "SIGTERM"
            assert taken == []
            signal.raise_signal(signal.SIGTERM)
            assert taken == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(taken) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


COMMAND = [sys.executable, "-m", "rnnjax.train", "--config"]


def start_long_run(path, config_file, environment):
    arguments = [*COMMAND, f"{config_file}:long", "--config.evaluate_every=2", "--workdir", str(path)]
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch 2 "):
            return process, lines
    raise AssertionError(f"the run ended before epoch 2: {''.join(lines)}")


def end_long_run(path):
    """Goes on in this process, with the config that the command wrote."""
    config = freeze(from_dict(Config, json.loads((path / "config.json").read_text())))
    return run_training(path, config)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """The long run without a stop."""
    return run_training(
        tmp_path_factory.mktemp("long"), freeze(dataclasses.replace(get_config("long"), evaluate_every=2))
    )


@pytest.fixture
def config_file(process_environment):
    return f"{process_environment['PYTHONPATH']}/toytasks/config.py"


def end_by(number, process, lines) -> tuple[int, str, str]:
    """Sends a signal; returns exit code, stdout and all of stderr."""
    process.send_signal(number)
    out, rest = process.communicate(timeout=60)
    return process.returncode, out, "".join(lines) + rest


def assert_says_how_to_go_on(path, number, code, out, err):
    assert code == 75, err
    assert out == ""
    assert "Traceback" not in err
    (told,) = [line for line in err.splitlines() if number.name in line]
    assert f"--workdir {path}" in told
    step, _ = last_checkpoint(path, freeze(get_config("long")))
    assert f"at step {step} of 80" in told
    assert RunDirectory(path).metrics()[-1]["step"] == step
    assert not (path / "summary.json").exists()


@pytest.mark.thorough
def test_a_signal_ends_the_command_with_75_after_a_checkpoint_and_it_says_how_to_go_on(
    config_file, process_environment, long_run, tmp_path
):
    path = tmp_path / "run"
    ended = end_by(signal.SIGTERM, *start_long_run(path, config_file, process_environment))
    assert_says_how_to_go_on(path, signal.SIGTERM, *ended)
    assert_same_run(end_long_run(path), long_run)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_so_does_ctrl_c(config_file, call, tmp_path, monkeypatch, capfd, caplog):
    path = tmp_path / "run"
    interrupt(monkeypatch, 3, lambda record: signal.raise_signal(signal.SIGINT))
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as ended:
        call(main, "--config", f"{config_file}:long", "--workdir", path)
    out, err = capfd.readouterr()
    assert_says_how_to_go_on(path, signal.SIGINT, ended.value.code, out, f"{err}\n{caplog.text}")


@pytest.mark.thorough
def test_a_killed_command_goes_on_from_its_last_checkpoint(config_file, process_environment, long_run, tmp_path):
    path = tmp_path / "run"
    code, _, err = end_by(signal.SIGKILL, *start_long_run(path, config_file, process_environment))
    assert code == -signal.SIGKILL, err
    assert RunDirectory(path).metrics()
    assert_same_run(end_long_run(path), long_run)
