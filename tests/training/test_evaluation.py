import json
import shutil

import numpy as np
import pytest
from toytasks.runs import run_training, sign_config

from rnnjax.config import DataConfig, ParallelConfig
from rnnjax.errors import CheckpointError, ConfigError
from rnnjax.training.evaluation import evaluate_run

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_training(tmp_path_factory.mktemp("runs") / "run", sign_config(epochs=4))


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run.directory.path, tmp_path / "run")


def evaluate(path, split="test", checkpoint="best", data=None):
    return evaluate_run(str(path), split, checkpoint, data, trusted=True)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_last_checkpoint_gives_what_training_wrote_at_its_end(split, run):
    found = evaluate(run.directory.path, split, "last")
    assert found["step"] == 32
    assert found["split"] == split
    assert found["checkpoint"] == "last"
    assert found["data"] == "made in the test"
    for name in ("loss", "accuracy"):
        assert found[name] == pytest.approx(run.summary["final"][split][name], rel=1e-6)


def test_the_best_checkpoint_is_the_best_of_the_summary(run):
    found = evaluate(run.directory.path, "validation", "best")
    best = run.summary["best"]
    assert best["accuracy"] == max(run.of("validation", "accuracy"))
    assert found["step"] == best["step"]
    assert (found["accuracy"], found["loss"]) == pytest.approx((best["accuracy"], best["loss"]), rel=1e-6)


def test_the_training_split_is_evaluated_whole(run):
    found = evaluate(run.directory.path, "train", "last")
    # 67 examples, of which training takes 64 an epoch: the share of right answers is in 67ths.
    assert found["accuracy"] * 67 == pytest.approx(round(found["accuracy"] * 67), abs=1e-3)


def test_evaluation_changes_nothing(copy):
    def content():
        return {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}

    before = content()
    evaluate(copy)
    assert content() == before


def test_evaluation_leaves_a_checkpoint_that_is_being_written_alone(copy):
    # What orbax calls a checkpoint until it is whole: the run may still be under way.
    unfinished = copy / "checkpoints" / "40.orbax-checkpoint-tmp"
    shutil.copytree(copy / "checkpoints" / "32", unfinished)
    assert evaluate(copy, checkpoint="last")["step"] == 32
    assert unfinished.is_dir()


def test_a_damaged_best_checkpoint_gives_way_to_the_last(copy, run, caplog):
    best = run.summary["best"]["step"]
    for file in (copy / "checkpoints" / str(best)).rglob("*"):
        if file.is_file() and file.parent.name != "metrics":
            file.write_bytes(b"")
    expected = next(step for step in (32, 24) if step != best)
    assert evaluate(copy)["step"] == expected
    assert f"step {best} is damaged" in caplog.text


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        evaluate(tmp_path)
    with pytest.raises(ConfigError, match="none holds no run"):
        evaluate(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_checkpoints_is_refused_and_left_as_it_is(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="train first"):
        evaluate(copy)
    assert not (copy / "checkpoints").exists()
    (copy / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="train first"):
        evaluate(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(task="toytasks.nothing"), "unknown task 'toytasks.nothing'"),
        (lambda values: values.update(colour="red"), "Config has no field 'colour'"),
        (lambda values: values["cell"].update(colour="red"), "BasicRNN has no field colour; leave cell.colour out"),
        (lambda values: values.update(cell=5), "cell"),
        (lambda values: values.update(batch_size="many"), "batch_size"),
        (lambda values: values.pop("task"), "is not a run's config"),
    ],
    ids=["task", "field", "nested field", "no group", "no number", "no task"],
)
def test_a_config_that_is_not_one_of_ours_is_refused_by_name(change, message, copy):
    values = json.loads((copy / "config.json").read_text())
    change(values)
    (copy / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        evaluate(copy)


def test_a_run_on_two_devices_and_host_data_is_evaluated_as_it_was_trained(tmp_path):
    config = sign_config(epochs=1, parallel=ParallelConfig(batch="2"), data=DataConfig(feed="host"))
    run = run_training(tmp_path, config)
    found = evaluate(tmp_path, "test", "last")
    np.testing.assert_allclose(found["loss"], run.summary["final"]["test"]["loss"], rtol=1e-6)


def test_a_run_trained_on_more_devices_than_there_are_can_be_evaluated(copy, run):
    values = json.loads((copy / "config.json").read_text())
    values["parallel"]["batch"] = "8"
    (copy / "config.json").write_text(json.dumps(values))
    found = evaluate(copy, "test", "last")
    np.testing.assert_allclose(found["loss"], run.summary["final"]["test"]["loss"], rtol=1e-5)
