import os
import pty
import re
import sys
import termios

import numpy as np
import pytest
from toytasks.runs import run_training, sign_config

from rnnjax.training.progress import Progress

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")

LINE = re.compile(r"epoch (\d+)  step (\d+)/24  .*accuracy \d\.\d+.*loss \d+\.\d+.*  \d+(\.\d+)? steps?/s  \d+.* left")


def shown_metrics(err: str) -> list[list[float]]:
    """The metrics in every plain line: training, then validation, accuracy before loss."""
    lines = [line for line in err.splitlines() if line.startswith("epoch")]
    return [[float(number) for number in re.findall(r"(?:loss|accuracy) (\d+\.\d+)", line)] for line in lines]


def test_without_a_terminal_there_is_a_plain_line_an_epoch(tmp_path, capfd):
    run = run_training(tmp_path, sign_config())
    out, err = capfd.readouterr()
    found = [LINE.fullmatch(line) for line in err.splitlines() if line.startswith("epoch")]
    assert all(found)
    assert [(match[1], match[2]) for match in found] == [("1", "8"), ("2", "16"), ("3", "24")]
    assert "\r" not in err
    assert out == ""
    train = [np.reshape(run.of("train", name), (3, 2)).mean(1) for name in ("accuracy", "loss")]
    validation = [run.of("validation", name) for name in ("accuracy", "loss")]
    np.testing.assert_allclose(shown_metrics(err), np.transpose([*train, *validation]), atol=1e-4)


def test_calls_shorter_than_an_epoch_do_not_change_what_a_line_shows(tmp_path, capfd):
    run_training(tmp_path / "epochs", sign_config(epochs=2))
    whole = shown_metrics(capfd.readouterr().err)
    run_training(tmp_path / "calls", sign_config(epochs=2, steps_per_call=3))
    np.testing.assert_allclose(shown_metrics(capfd.readouterr().err), whole, atol=2e-4)


def at_a_terminal(monkeypatch, action) -> str:
    """What `action` shows at a terminal."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        action()
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
    return shown.decode()


def test_at_a_terminal_there_is_a_bar(tmp_path, monkeypatch):
    shown = at_a_terminal(monkeypatch, lambda: run_training(tmp_path, sign_config()))
    assert "\r" in shown
    assert "24/24" in shown
    assert "100%" in shown
    assert re.search(r"\d+:\d+<", shown)
    assert re.search(r"step/s|s/step", shown)
    for name in ("loss", "accuracy"):
        assert re.search(rf"{name}=\d", shown)
    assert re.search(r"epoch 3 .*validation .*accuracy", shown)


def test_a_resumed_run_counts_from_where_it_goes_on(monkeypatch, capfd):
    def resume():
        with Progress(50, 100) as progress:
            progress.advance(75, {"loss": 1.0}, {"loss": np.ones(25)})
            progress.epoch(3, {"loss": 1.0})

    assert "75/100" in at_a_terminal(monkeypatch, resume)
    resume()
    assert "step 75/100" in capfd.readouterr().err
