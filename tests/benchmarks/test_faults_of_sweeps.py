"""The campaign's cases of sweeps and of generation find what is lost or false."""

import json
import os
import shutil
import signal
import sys

import pytest

from benchmarks.faults import generating, sweeps
from benchmarks.faults.case import Bench, Case, Ended, Fault, require_answer


@pytest.fixture
def reference(tmp_path):
    """What a sweep of one run would have written, which is kept."""
    path, row = tmp_path / "reference", {"step": 2, "split": "test", "loss": 0.5, "run": 0}
    (path / "groups" / "0" / "runs" / "0" / "checkpoints" / "2" / "about").mkdir(parents=True)
    (path / "groups" / "0" / "runs" / "0" / "checkpoints" / "2" / "about" / "metadata").write_text("{}")
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    results = {"metric": "loss", "runs": [{"run": 0, "final": {"test": row}}], "kept": {"0": "groups/0/runs/0"}}
    results |= {"best": 0, "points": [], "data": {}, "seconds": 1.5}
    (path / "sweep.json").write_text(json.dumps(results))
    return path


def test_a_sweep_equals_itself_in_another_time_and_what_is_lost_or_false_is_found(reference, tmp_path):
    sweep = shutil.copytree(reference, tmp_path / "sweep")
    results = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps({**results, "seconds": 9.0}))
    assert sweeps.differences(sweep, reference) == []
    (sweep / "sweep.json").write_text(json.dumps({**results, "best": None}))
    (sweep / "metrics.jsonl").write_text("")
    shutil.rmtree(sweep / "groups" / "0" / "runs" / "0" / "checkpoints")
    assert sweeps.differences(sweep, reference) == [
        "sweep.json: best is None for 0",
        "metrics.jsonl has 0 lines for 1",
        "run 0: the checkpoint of step 2 is not there",
    ]


def answers(ended, number):
    require_answer(ended, number, *sweeps.ALLOWED[number])


def test_a_sweep_answers_a_signal_as_training_does():
    answers(Ended(75, "", "stopped by SIGTERM\n"), signal.SIGTERM)
    answers(Ended(-9, "", ""), signal.SIGKILL)
    answers(Ended(1, "", "KeyboardInterrupt\n"), signal.SIGINT)
    with pytest.raises(Fault, match="it ended with 1 for 0 or 75"):
        answers(Ended(1, "", "rnnjax: no\n"), signal.SIGTERM)
    with pytest.raises(Fault, match="a traceback"):
        answers(Ended(75, "", "Traceback (most recent call last)"), signal.SIGTERM)


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("print('ihello')", None),
        ("print('ihellx')", "generate answered 'ihellx\\\\n' for 'ihello\\\\n'"),
        ("import sys; print('a checkpoint is damaged', file=sys.stderr); print('ihellx')", None),
        ("import sys; sys.exit('rnnjax: config.json is damaged')", None),
        ("import sys; sys.exit('nothing')", "code 1 with 0 sentences"),
        ("import pathlib, sys; print('ihello'); (pathlib.Path(sys.argv[1]) / 'config.json').unlink()", "was changed"),
    ],
)
def test_a_damaged_run_answers_what_it_did_or_says_why_not(said, seen, tmp_path, monkeypatch):
    (tmp_path / "generating" / "run" / "checkpoints" / "2").mkdir(parents=True)
    (tmp_path / "generating" / "run" / "config.json").write_text("{}")
    expected = {f"{name} {which}": "ihello\n" for name in ("generate", "evaluate") for which in ("best", "last")}
    (tmp_path / "generating" / "answers.json").write_text(json.dumps(expected))
    monkeypatch.setattr(generating, "damage_one", lambda run, draw: "nothing")
    programs = {"generate": said, "evaluate": "print('ihello')"}
    commands = {name: (sys.executable, "-S", "-c", program) for name, program in programs.items()}
    monkeypatch.setattr(generating, "COMMANDS", commands)
    case = Case(Bench(tmp_path, (), (), dict(os.environ), 1.0), "generate", 0, 0)
    if seen is None:
        generating.damage_generation(case)
        return
    with pytest.raises(Fault, match=seen):
        generating.damage_generation(case)
