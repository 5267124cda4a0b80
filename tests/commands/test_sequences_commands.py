import json

import pytest

from rnnjax import evaluate, train

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SMALL = ["--config.data.length=4", "--config.data.examples=12800", "--config.data.held_out=128", "--config.epochs=2"]
SMALL += ["--config.cell.hidden_size=16", "--config.optimizer.learning_rate=1e-2"]


def test_parity_is_learnt_and_goes_on_beyond_the_length_of_training(call, caplog, tmp_path):
    run = tmp_path / "run"
    with caplog.at_level("INFO"):
        code, out, _, err = call(train.main, "--config", "configs/sequences.py:parity", *SMALL, "--workdir", run)
    assert code == 0, err
    test = json.loads((run / "summary.json").read_text())["final"]["test"]
    by_length = {length: test[f"accuracy_at_{length}"] for length in (4, 8, 12, 16)}
    assert by_length[4] == 1
    assert min(by_length.values()) > 0.9
    assert test["accuracy"] == pytest.approx(sum(by_length.values()) / 4)
    assert f"accuracy_at_16 {by_length[16]:.4f}" in out
    table = [message.split() for message in caplog.messages if message.startswith("  ")]
    assert table[0] == ["length", "accuracy", "loss"]
    assert [row[:2] for row in table[1:]] == [[str(length), f"{value:.4f}"] for length, value in by_length.items()]
    assert {picture.name for picture in (run / "plots").iterdir()} == {"accuracy.png", "loss.png", "by_length.png"}
    code, out, _, err = call(evaluate.main, run, "--checkpoint", "last")
    assert code == 0, err
    evaluated = json.loads(out)
    assert {name: evaluated[name] for name in test if name not in ("step", "epoch", "split")} == {
        name: value for name, value in test.items() if name not in ("step", "epoch", "split")
    }
