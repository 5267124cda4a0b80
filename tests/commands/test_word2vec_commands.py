import json

import pytest

from rnnjax import generate, train
from rnnjax.data.word_vectors import read_word_vectors

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]


def test_words_are_trained_written_and_asked_for(call, caplog, tmp_path):
    small = ["--config.epochs=1", "--config.size=8", "--config.batch_size=64"]
    run = tmp_path / "run"
    with caplog.at_level("INFO"):
        code, out, _, err = call(train.main, "--config", "configs/word2vec.py:embedded", *small, "--workdir", run)
    assert code == 0, err
    assert "nearest to class: " in caplog.text
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validation = next(row["loss"] for row in rows if row["split"] == "validation")
    assert validation < 4.158  # untrained, it is 6 log 2 = 4.16
    words, vectors = read_word_vectors(run / "plots" / "vectors.txt")
    assert vectors.shape == (len(words), 8)
    code, out, _, err = call(generate.main, run, "--prompt", "list")
    assert code == 0, err
    assert out.startswith("list: ")
    code, _, sentences, _ = call(generate.main, run, "--prompt", "xyzzy")
    assert code == 2
    assert sentences[0].startswith("rnnjax: 'xyzzy' is not one of the ")


def test_a_text_needs_a_path(call):
    code, _, sentences, _ = call(train.main, "--config", "configs/word2vec.py:text")
    assert code == 2
    assert "data.path" in sentences[0]
