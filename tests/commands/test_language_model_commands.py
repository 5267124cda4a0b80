"""Train, evaluate and generate on a text of one's own, as a person does it."""

import io
import json

import pytest
from fixtures.thorough import once_more

import rnnjax
from rnnjax import evaluate, generate, train

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]


@pytest.fixture(scope="module")
def own_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "mine.txt"
    path.write_text("the cat sat on the mat\nthe dog sat on the log\n" * 40)
    return path


SMALL = ["--config.epochs=1", "--config.batch_size=4", "--config.window=8", "--config.embedding_size=4"]
SMALL += ["--config.cell.hidden_size=8", "--config.cell.layers=1", "--config.data.name=text"]


@pytest.mark.parametrize(("file", "metric"), [("char_lm", "bits_per_character"), once_more("ptb", "perplexity")])
def test_a_text_of_ones_own_from_training_to_generation(file, metric, own_text, call, tmp_path, monkeypatch):
    run = tmp_path / "run"
    path = f"--config.data.path={own_text}"
    code, out, sentences, _ = call(train.main, "--config", f"configs/{file}.py", *SMALL, path, "--workdir", run)
    assert (code, sentences) == (0, [])
    assert metric in out
    code, out, _, _ = call(evaluate.main, run)
    found = json.loads(out)
    assert code == 0
    assert found[metric] == pytest.approx(
        json.loads((run / "summary.json").read_text())["final"]["test"][metric], rel=1e-5
    )
    moved = own_text.rename(tmp_path / "moved.txt")  # what a run is opened for without its data
    arguments = [run, "--prompt", "the cat", "--length", "30", "--temperature", "0.8", "--top-k", "5", "--top-p", "0.9"]
    said = [call(generate.main, *arguments)[:2] for _ in range(2)]
    assert said[0] == said[1]
    assert said[0][0] == 0
    assert said[0][1].startswith("the cat")
    opened = rnnjax.load_run(run)
    assert opened.generate("the cat", length=30, temperature=0.8, top_k=5, top_p=0.9) + "\n" == said[0][1]
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sat\nthe dog\n"))
    code, out, _, _ = call(generate.main, run, "--stream", "--n-best", 2)
    assert (code, [len(line.split("\t")) for line in out.splitlines()]) == (0, [2, 2])
    code, out, _, _ = call(evaluate.main, run, "--data", moved)
    moved.rename(own_text)
    assert json.loads(out)[metric] == found[metric]


def test_a_text_that_cannot_be_read_ends_with_1(call, tmp_path):
    (tmp_path / "empty.txt").touch()
    path = f"--config.data.path={tmp_path / 'empty.txt'}"
    code, _, sentences, err = call(train.main, "--config", "configs/char_lm.py", *SMALL, path)
    assert code == 1
    assert err == sentences[0] + "\n"
    assert "empty.txt is empty" in err
