import io
import json

import pytest

from rnnjax import evaluate, generate, train

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]

CLICKS = "".join(
    f"{session},2014-04-07T1{session // 20}:{session % 20:02d}:{5 * click:02d}Z,{100 + (session + click) % 7},0\n"
    for session in range(120)
    for click in range(6)
)


def test_clicks_are_trained_on_evaluated_and_continued(call, tmp_path, monkeypatch):
    (tmp_path / "yoochoose-clicks.dat").write_text(CLICKS)
    config = ["--config", "configs/navigation.py:source800", "--config.windows=100", "--config.batch_size=50"]
    short = [
        "--config.epochs=60",
        "--config.evaluate_every=30",
        "--config.distinct=False",
        "--config.optimizer.learning_rate=1e-2",
    ]
    run = tmp_path / "run"
    code, out, _, err = call(train.main, *config, *short, "--config.data.path", tmp_path, "--workdir", run)
    assert code == 0, err
    assert "successors_mrr_20 1.0000" in out
    test = json.loads((run / "summary.json").read_text())["final"]["test"]
    assert test["accuracy"] == 1  # items go round in a circle of seven
    assert test["popularity_recall_20"] == 1
    code, out, _, err = call(evaluate.main, run, "--split", "validation")
    assert code == 0, err
    assert "last_items_mrr_20" in out
    (tmp_path / "yoochoose-clicks.dat").unlink()
    code, out, _, err = call(generate.main, run, "--prompt", "105 106 100 101", "--n-best", "2")
    assert code == 0, err
    assert out.startswith("102 ")
    assert len(out.split("\t")) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("ann\t105 106\nbob\t100 101 102 103\nann\t100 101\n"))
    code, streamed, _, err = call(generate.main, run, "--stream", "--n-best", "2")
    assert code == 0, err
    assert streamed.splitlines()[2] == f"ann\t{out.strip()}"  # the last two of the same four clicks
    assert streamed.splitlines()[1].startswith("bob\t104 ")


def test_clicks_that_are_damaged_end_the_command_with_file_and_line(call, tmp_path):
    (tmp_path / "yoochoose-clicks.dat").write_text(CLICKS + "5,yesterday,3,0\n")
    run = ["--config", "configs/navigation.py:all", "--config.data.path", tmp_path, "--workdir", tmp_path / "run"]
    code, _, sentences, _ = call(train.main, *run)
    assert code == 1
    assert len(sentences) == 1
    assert "yoochoose-clicks.dat, line 721: the time must be seconds" in sentences[0]
