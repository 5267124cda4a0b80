import io
import json

import numpy as np
import pytest

import rnnjax
from rnnjax import generate, train

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]

SMALL = ["--config.windows=200", "--config.window=8", "--config.cell.hidden_size=6"]


def trained_run(call, path, *arguments):
    code, _, sentences, _ = call(train.main, *arguments, "--workdir", path)
    assert (code, sentences) == (0, [])
    return json.loads((path / "summary.json").read_text())["final"]


@pytest.mark.thorough
def test_hihello_is_learnt_and_said(call, tmp_path):
    final = trained_run(call, tmp_path / "run", "--config", "configs/hihello.py:gru")
    assert final["test"]["accuracy"] == 1
    code, out, _, _ = call(generate.main, tmp_path / "run")
    assert (code, out) == (0, "ihello\n")
    code, out, sentences, _ = call(generate.main, tmp_path / "run", "--prompt", "world")
    assert (code, out) == (2, "")
    assert sentences == ["rnnjax: only the characters 'hielo' are known, not 'drw'; use those"]


def test_a_series_is_learnt_and_continued(call, read_only, tmp_path, monkeypatch):
    path = tmp_path / "run"
    final = trained_run(call, path, "--config", "configs/time_series.py:projected", *SMALL)
    assert final["test"]["mse"] == final["test"]["loss"] > 0
    assert {picture.name for picture in (path / "plots").iterdir()} >= {"series.png", "instance.png", "prediction.png"}
    code, out, _, _ = call(generate.main, path, "--prompt", "instance", "--length", 30)
    assert code == 0
    assert len([float(line) for line in out.splitlines()]) == 30
    assert (path / "plots" / "generated.png").exists()
    assert call(generate.main, path, "--prompt", "instance", "--length", 30)[1] == out
    with read_only(path):
        code, again, sentences, err = call(generate.main, path, "--prompt", "instance", "--length", 30)
    assert (code, again, sentences) == (0, out, [])
    assert "Traceback" not in err
    streamed = answered(call, monkeypatch, path, "0.5", "ann\t0.5 0.25", "0.25", "ann\t")
    assert streamed == [streamed[0], f"ann\t{streamed[2]}", streamed[2], "ann\t"]  # each has a state of its own
    predicted = rnnjax.load_run(path).predict(np.array([[[0.5], [0.25]]], np.float32))[0, :, 0]
    np.testing.assert_allclose([float(streamed[0]), float(streamed[2])], predicted, atol=2e-6)
    monkeypatch.setattr("sys.stdin", io.StringIO("0.5\nhalf\n"))
    code, _, (sentence,), _ = call(generate.main, path, "--stream")
    assert (code, sentence) == (1, "rnnjax: line 2: a line must be numbers, such as 0.25 0.5, got 'half'")


def answered(call, monkeypatch, path, *lines):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    code, out, sentences, _ = call(generate.main, path, "--stream")
    assert (code, sentences) == (0, [])
    return out.splitlines()
