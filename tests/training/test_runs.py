"""Finished runs, opened from Python."""

import shutil

import jax
import numpy as np
import pytest
from toytasks.runs import run_training, sign_config

import rnnjax
from rnnjax.cells.basic import BasicRNN
from rnnjax.config import CellConfig
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError, DataError
from rnnjax.runs import columns, fitting
from rnnjax.tasks import build_task, hihello
from rnnjax.tasks.task import Field
from rnnjax.train import train_or_go_on

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = freeze(hihello.Config(epochs=3, cell=CellConfig(hidden_size=4), batch_size=1, log_every=1))
    return run_training(tmp_path_factory.mktemp("runs") / "run", config, build_task(config))


def test_an_opened_run_is_what_training_left(finished, read_only):
    with read_only(finished.directory.path):
        run = rnnjax.load_run(finished.directory.path, "last")
    assert run.cell == BasicRNN(4)
    assert run.config == finished.config
    assert run.step == 3
    assert run.summary == finished.summary
    for found, expected in zip(jax.tree.leaves(run.params), jax.tree.leaves(finished.state.params), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert run.parameter_count == run.summary["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(run.params))
    assert run.metrics["train"]["step"].tolist() == [1, 2, 3]
    assert run.metrics["validation"]["loss"].tolist() == finished.of("validation", "loss")


def test_it_predicts_generates_and_says_what_it_cannot(finished):
    run = rnnjax.load_run(finished.directory.path)
    logits = run.predict([[0, 1, 2]])
    assert logits.shape == (1, 3, 5)
    np.testing.assert_array_equal(run.predict({"inputs": [[0, 1, 2]]}), logits)
    with pytest.raises(ValueError, match=r"^the model reads inputs: give inputs too, in a dict$"):
        run.predict({})
    assert run.generate("hih") == "".join("hielo"[i] for i in run.predict([[0, 1, 0]])[0].argmax(-1))
    with pytest.raises(ConfigError, match="does not translate; use predict or generate"):
        run.translate(["hi"])
    with pytest.raises(ConfigError, match=r"^the task hihello takes prompt: leave length out$"):
        run.generate("hih", length=0)
    with pytest.raises(ConfigError, match="prompt must be text, got 3"):
        run.generate(3)
    with pytest.raises(ConfigError, match=r"^the task hihello takes prompt: leave heat out$"):
        run.generate("hih", heat=2)
    with pytest.raises(ConfigError, match='checkpoint must be "best" or "last", got \'first\''):
        rnnjax.load_run(finished.directory.path, "first")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("y", np.zeros((2, 3)), "the model reads x, not 'y'"),
        ("x", np.zeros((2, 3)), r"x must have shape \[B, T, 2\], got \[2, 3\]"),
        ("x", np.zeros((2, 3, 4)), r"x must have shape \[B, T, 2\], got \[2, 3, 4\]"),
        ("x", np.zeros((2, 0, 2)), r"x must hold something along every axis but the first, got \[2, 0, 2\]"),
        ("x", [[[0, 1], [2, 3]], [[0, 1]]], r"x must be one array of shape \[B, T, 2\]: make the shorter ones as long"),
        ("x", np.zeros((2, 3, 2), complex), "x must hold numbers of type float32, got complex128"),
        ("x", np.full((2, 3, 2), 1e300), r"x must hold numbers of type float32, got 1e\+300"),
        ("tokens", np.array([[0, 5]]), "tokens must hold tokens from 0 to 4, got 5"),
        ("tokens", np.array([[0, -1]]), "tokens must hold tokens from 0 to 4, got -1"),
        ("image", np.array([3, 256]), "image must hold numbers of type uint8, got 256"),
        ("image", np.array([3, -1]), "image must hold numbers of type uint8, got -1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, values, message):
    fields = {"x": Field(("B", "T", 2), "float32")}
    if name in ("image", "tokens"):
        fields |= {"image": Field(("B",), "uint8"), "tokens": Field(("B", "T"), "int32", 5)}
    with pytest.raises(ValueError, match=message):
        fitting(name, values, fields)


def test_a_line_without_a_number_has_none_in_its_column():
    found = columns([{"split": "test", "step": 1, "loss": 2.0}, {"split": "test", "step": 2, "bleu": 3.0}])
    np.testing.assert_array_equal(found["test"]["loss"], [2.0, np.nan])
    np.testing.assert_array_equal(found["test"]["bleu"], [np.nan, 3.0])


def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(finished, tmp_path):
    path = shutil.copytree(finished.directory.path, tmp_path / "run")
    (path / "model.json").unlink()
    with pytest.raises(ConfigError, match=r"holds a run of an earlier version .* train it again"):
        rnnjax.load_run(path)
    (path / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"holds a run of an earlier version .* train it again"):
        run_training(path, finished.config, finished.task)
    whole = (finished.directory.path / "model.json").read_text()
    for damaged in ("{}", whole.replace("4", "8", 1)):
        (path / "model.json").write_text(damaged)
        with pytest.raises(ConfigError, match=r"model.json is damaged"):
            rnnjax.load_run(path)
    run_training(path, finished.config, finished.task)  # which makes it again
    assert rnnjax.load_run(path).generate("hih") == rnnjax.load_run(finished.directory.path).generate("hih")


def test_a_complete_run_whose_model_file_is_damaged_makes_it_again(finished, tmp_path):
    path = shutil.copytree(finished.directory.path, tmp_path / "run")
    whole = (path / "model.json").read_text()
    (path / "model.json").write_text(whole[:20])
    train_or_go_on(finished.config, path)
    assert (path / "model.json").read_text() == whole
    assert rnnjax.load_run(path).summary["final"] == finished.summary["final"]


def test_a_task_of_ones_own_is_opened_without_its_data(tmp_path):
    run_training(tmp_path, sign_config(epochs=1))
    run = rnnjax.load_run(tmp_path, trust=True)
    assert run.generate("abc").startswith("abc 300 1.0")
    with pytest.raises(DataError, match="no train split, since a run is opened without its data"):
        run.task.examples("train")
    with pytest.raises(ConfigError, match="predicts nothing from arrays; use generate"):
        run.predict(np.zeros((1, 4, 3)))
