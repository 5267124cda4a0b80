"""Data of one's own, trained on by the command and read again by the finished run."""

import json

import numpy as np
import pytest

import rnnjax
from rnnjax import evaluate, generate, train

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]

FAST = ["--config.batch_size=14", "--config.epochs=30", "--config.optimizer.learning_rate=3e-2"]
RNG = np.random.default_rng(0)


def trained_run(call, variant, data, directory, *options):
    path = ["--config", f"configs/own.py:{variant}", "--config.data.path", data, "--workdir", directory]
    code, out, sentences, err = call(
        train.main, *path, "--config.cell.hidden_size=4", "--config.evaluate_every=60", *options
    )
    assert (code, sentences) == (0, []), err
    return json.loads((directory / "summary.json").read_text())["final"], out


def long_form(per_step):
    """Sequences of unequal lengths that rise or fall, the class of each, or of each step whether it is high."""
    lines = ["id,time,height,noise,label"]
    for i in range(60):
        slope = 1 if i % 2 else -1
        for t in range(3 + i % 4):
            height = "" if t == 1 and i % 5 == 0 else 100 + 10 * slope * t
            label = ("high" if slope * t > 0 else "low") if per_step else ("down", "up")[i % 2]
            lines.append(f"s{i},{t},{height},{RNG.normal():.3f},{label}")
    return "\n".join(lines) + "\n"


def test_sequences_of_a_csv_file_are_classified(call, tmp_path):
    (tmp_path / "data.csv").write_text(long_form(per_step=False))
    run = tmp_path / "run"
    final, _ = trained_run(call, "classify", tmp_path / "data.csv", run, *FAST)
    assert final["test"]["accuracy"] == 1
    assert (run / "plots" / "confusion.png").exists()
    (tmp_path / "new.csv").write_text("id,time,height,noise,label\na,0,100,0,up\na,1,112,0,up\na,2,119,0,up\n")
    code, out, _, err = call(evaluate.main, run, "--data", tmp_path / "new.csv")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == 1
    (tmp_path / "data.csv").unlink()
    (tmp_path / "open.csv").write_text('id,time,noise,height\n"a,b",0,0,100\n"a,b",1,0,88\nc,0,0,100\nc,1,0,115\n')
    code, out, _, err = call(generate.main, run, "--data", tmp_path / "open.csv")
    assert code == 0, err
    assert [line.rpartition(",")[0] for line in out.splitlines()] == ["id,label", '"a,b",down', "c,up"]
    code, out, sentences, _ = call(generate.main, run, "--data", tmp_path / "none.csv")
    assert (code, out, sentences) == (1, "", [f"rnnjax: {tmp_path}/none.csv does not exist: give the data with --data"])
    opened = rnnjax.load_run(run)
    values = np.float32([[[100, 0], [90, 0], [80, 0]], [[100, 0], [110, 0], [np.nan, np.nan]]])
    assert [opened.task.kept["classes"][answer] for answer in opened.predict(values).argmax(-1)] == ["down", "up"]


@pytest.mark.thorough
def test_a_series_is_forecast_beside_baselines(call, tmp_path):
    steps = np.arange(160)
    values = 500 + steps + 20 * np.sin(2 * np.pi * steps / 7)
    rows = "".join(f"2024-{1 + t // 28:02d}-{1 + t % 28:02d};{value:.3f}\n" for t, value in zip(steps, values))
    (tmp_path / "data.csv").write_text("date;sales\n" + rows)
    run, small = tmp_path / "run", ["--config.window=14", "--config.horizon=3", "--config.batch_size=16"]
    fast = ["--config.epochs=15", "--config.optimizer.learning_rate=2e-2"]
    final, _ = trained_run(call, "forecast", tmp_path / "data.csv", run, *small, *fast)
    test = final["test"]
    assert test["seasonal_naive_mae"] == pytest.approx(7, abs=0.01)  # a season of 7 was found, in which 7 is added
    assert test["mae"] < test["naive_mae"]
    assert (run / "plots" / "forecast.png").exists()
    code, out, _, err = call(generate.main, run)
    assert code == 0, err
    header, *lines = out.splitlines()
    assert (header, len(lines)) == ("sales", 3)
    following = rnnjax.load_run(run).predict(values[None, -14:, None].astype(np.float32))
    np.testing.assert_allclose(following[0, :, 0], [float(line) for line in lines], rtol=1e-4)


@pytest.mark.thorough
def test_steps_are_labelled(call, tmp_path):
    (tmp_path / "data.csv").write_text(long_form(per_step=True))
    final, _ = trained_run(call, "tag", tmp_path / "data.csv", tmp_path / "run", *FAST)
    assert final["test"]["accuracy"] > 0.9


def test_what_is_wrong_ends_in_one_sentence(call, tmp_path):
    config = ["--config", "configs/own.py:classify"]
    assert call(train.main, *config)[::2] == (2, ["rnnjax: data of your own needs --config.data.path"])
    (tmp_path / "data.csv").write_text("id,t,a,label\nx,0,1,u\nx,1,1O,u\n")
    code, _, sentences, err = call(train.main, *config, "--config.data.path", tmp_path / "data.csv")
    assert code == 1
    assert sentences[0].startswith(f"rnnjax: {tmp_path}/data.csv, row 3, column 'a': '1O' is no number; correct it")
    assert "Traceback" not in err
