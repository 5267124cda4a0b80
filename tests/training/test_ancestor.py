"""Runs that begin with another run: its parameters alone, or the whole of it with more epochs to go."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from toytasks import sign
from toytasks.runs import assert_identical, last_checkpoint, params_of, sign_config
from toytasks.runs import run_training as run_afresh

from rnnjax import train
from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.config_group import freeze, to_dict
from rnnjax.errors import ConfigError, DataError
from rnnjax.optimizer import check_frozen
from rnnjax.tasks import build_task
from rnnjax.training.ancestor import Ancestor, Parent, read_extension, read_parent
from rnnjax.training.directory.model_file import difference
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.record import Record

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def config_of(**fields):
    """A config in which all that could get lost on the way matters: dropout, moments, a line of the log unfinished."""
    cell = CellConfig(kind="GRU", hidden_size=4, dropout={"input_rate": 0.3})
    return sign_config(**{"epochs": 2, "log_every": 3, "steps_per_call": 3, "call_seconds": 0, "cell": cell, **fields})


FROZEN = {
    "epochs": 1,
    "seed": 5,
    "steps_per_call": 0,
    "frozen": "RNN.*w_.",
    "optimizer": OptimizerConfig(name="adamw", clip_norm=0.1),
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return run_afresh(tmp_path_factory.mktemp("runs") / "parent", config_of(histograms=True))


def begun(path, config, asked):
    """A run that begins with another one, by the functions of the command."""
    train.train_or_go_on(config, path, asked)
    directory = RunDirectory(path)
    return directory, last_checkpoint(path, config)[1]


def from_run(run, checkpoint="best"):
    return Parent("init_from", str(run.directory.path), checkpoint)


def extending(run):
    return Parent("extend", str(run.directory.path), "last")


def test_two_epochs_and_two_more_are_four(parent, tmp_path):
    whole = run_afresh(tmp_path / "whole", config_of(epochs=4, histograms=True))
    directory, state = begun(tmp_path / "extended", config_of(epochs=4, histograms=True), extending(parent))
    assert (tmp_path / "extended" / "histograms.jsonl").read_text() == (
        whole.directory.path / "histograms.jsonl"
    ).read_text()
    assert directory.metrics() == whole.metrics
    assert_identical(state, whole.state)
    summary = directory.summary()
    for name in ("final", "best"):
        assert summary[name] == whole.summary[name]
    assert params_of(directory)[0] == params_of(whole.directory)[0]
    assert_identical(params_of(directory)[1], params_of(whole.directory)[1])
    record = summary["parent"]
    assert record == directory.parent()
    assert (record["how"], record["directory"], record["step"]) == ("extend", str(parent.directory.path), 16)


def test_where_the_schedule_is_of_the_whole_run_that_is_said(parent, caplog):
    config = config_of(epochs=3, optimizer=OptimizerConfig(schedule="cosine"))
    Ancestor(extending(parent)).check(build_task(config), config)
    assert "rates so far were those of 2 epochs, and are those of 3 from here on" in caplog.text


def test_a_run_that_is_not_complete_or_of_other_data_is_not_extended(parent, tmp_path):
    task = build_task(parent.config)
    other = task.with_data(dataclasses.replace(task.data, checksum="other"))
    with pytest.raises(DataError, match=r"the data differs from that of .*; give that by --data, or use --init_from"):
        Ancestor(extending(parent)).check(other, parent.config)
    path = shutil.copytree(parent.directory.path, tmp_path / "run")
    (path / "summary.json").unlink()
    with pytest.raises(ConfigError, match="is not complete; end it first"):
        Ancestor(Parent("extend", str(path), "last")).check(task, parent.config)


def test_parameters_alone_are_taken_and_what_is_frozen_stays_as_it_is(parent, tmp_path, caplog):
    with caplog.at_level("INFO"):
        directory, state = begun(tmp_path / "run", config_of(**FROZEN), from_run(parent))
    step, before = params_of(parent.directory)
    before, after = before["params"], state.params["params"]
    for name in ("w_x", "w_h"):
        np.testing.assert_array_equal(getattr(after["RNN_0"]["rnn"], name), getattr(before["RNN_0"]["rnn"], name))
    assert (after["Dense_0"]["kernel"] != before["Dense_0"]["kernel"]).any()
    count = sum(leaf.size for leaf in jax.tree.leaves(after))
    frozen = sum(getattr(after["RNN_0"]["rnn"], name).size for name in ("w_x", "w_h"))
    assert f"model: {count} parameters ({frozen} of them frozen)" in caplog.messages
    record = directory.summary()["parent"]
    assert (record["how"], record["checkpoint"], record["step"]) == ("init_from", "best", step)
    about = json.loads((parent.directory.checkpoints / str(step) / "about" / "metadata").read_text())
    assert record["params"] == about["sha256"]["params"]
    assert max(row["step"] for row in directory.metrics()) == 8


def test_an_average_of_parameters_begins_with_those_that_are_taken(parent, tmp_path):
    averaging = OptimizerConfig(learning_rate=1e-9, ema_decay=0.5)
    _, state = begun(tmp_path / "run", config_of(epochs=1, optimizer=averaging), from_run(parent))
    taken = params_of(parent.directory)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, taken)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.opt_state.average, taken)


def test_it_is_resumed_without_its_parent_and_refused_with_another(parent, tmp_path, monkeypatch):
    config, path = config_of(epochs=1, seed=5), shutil.copytree(parent.directory.path, tmp_path / "p")
    asked = Parent("init_from", str(path), "last")
    whole, state = begun(tmp_path / "whole", config, asked)
    real, signals = Record.write, iter([signal.SIGTERM])

    def write(self, results):
        for number in signals:
            signal.raise_signal(number)
        return real(self, results)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "write", write)
        with pytest.raises(SystemExit):
            begun(tmp_path / "stopped", config, asked)
    shutil.rmtree(path)
    with pytest.raises(ConfigError, match=r"holds a run that began with .* \(init_from, last\); choose another"):
        begun(tmp_path / "stopped", config, from_run(parent))
    resumed, resumed_state = begun(tmp_path / "stopped", config, None)
    assert resumed.metrics() == whole.metrics()
    assert_identical(resumed_state, state)
    with pytest.raises(ConfigError, match="holds a run that began afresh"):
        RunDirectory(parent.directory.path).check_parent(asked.as_json())


def test_one_that_was_killed_before_its_first_checkpoint_begins_with_its_parent_all_the_same(parent, tmp_path):
    config = config_of(**FROZEN)
    directory = RunDirectory(tmp_path / "run")
    directory.claim(to_dict(config))
    directory.write_parent(from_run(parent).as_json())
    (directory.checkpoints / "0.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (directory.checkpoints / "0.orbax-checkpoint-tmp" / "params" / "part").write_text("half")
    _, state = begun(directory.path, config, None)
    _, before = params_of(parent.directory)
    np.testing.assert_array_equal(state.params["params"]["RNN_0"]["rnn"].w_x, before["params"]["RNN_0"]["rnn"].w_x)


def test_an_extension_that_has_begun_needs_its_parent_no_more(parent, tmp_path):
    path = shutil.copytree(parent.directory.path, tmp_path / "parent")
    command = ["--extend", str(path), "--workdir", str(tmp_path / "run")]
    extension, workdir = read_extension([*command, "--by=1"])
    begun(workdir, extension.config, extension.parent)
    shutil.rmtree(path)
    assert read_extension([*command, "--by=1"]) == (extension, workdir)
    with pytest.raises(ConfigError, match="holds no run"):
        read_extension([*command, "--by=2"])


def test_what_does_not_fit_is_named(parent):
    config = config_of(cell=CellConfig(kind="GRU", hidden_size=5))
    with pytest.raises(ConfigError) as refused:
        Ancestor(from_run(parent)).check(build_task(config), config)
    said = "does not fit this config: Dense_0.kernel is float32 [4, 2] there and float32 [5, 2] here; RNN_0"
    assert said in str(refused.value)
    other = {"a": ("float32", (1,)), **{f"b{i}": ("float32", (1,)) for i in range(6)}}
    there = {"a": ("float32", (1,)), "c": ("int32", ())}
    assert difference(there, other) == "only there: c; only here: b0, b1, b2, b3, ..."
    assert difference(other, other) is None


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("runs/a", ("runs/a", "best")),
        ("runs/a:last", ("runs/a", "last")),
        ("runs/a:best", ("runs/a", "best")),
        ("runs/a:b", ("runs/a:b", "best")),
    ],
)
def test_the_checkpoint_is_named_behind_the_run(argument, expected):
    parent, rest = read_parent(["--config", "x.py", f"--init_from={argument}"])
    assert (parent.directory, parent.checkpoint) == expected
    assert rest == ["--config", "x.py"]
    assert read_parent(["--config", "x.py"]) == (None, ["--config", "x.py"])


def test_a_pattern_that_matches_nothing_or_all_is_refused():
    params = {"params": {"embedding": {"embedding": np.zeros(2)}, "dense": {"bias": np.zeros(2)}}}
    check_frozen("", params)
    check_frozen("embedding.*", params)
    with pytest.raises(ConfigError, match=r"frozen = 'embed' matches none of .* are dense.bias, embedding.embedding"):
        check_frozen("embed", params)
    with pytest.raises(ConfigError, match=r"frozen = '.*' leaves no parameter to be trained"):
        check_frozen(".*", params)
    with pytest.raises(ConfigError, match=r"frozen must be a regular expression, got '\('"):
        freeze(sign.Config(frozen="("))


def test_a_run_of_a_pattern_of_undecayed_parameters_that_matches_none_does_not_begin(tmp_path):
    config = config_of(optimizer=OptimizerConfig(name="adamw", undecayed="biases"))
    with pytest.raises(ConfigError, match=r"optimizer\.undecayed = 'biases' matches none of the parameters, which are"):
        run_afresh(tmp_path, config)
