import json
import re
import shutil

import pytest

from rnnjax import evaluate
from rnnjax.training.directory.lock import locked

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


@pytest.fixture
def summary(trained):
    return json.loads((trained[0] / "summary.json").read_text())


@pytest.mark.thorough
def test_evaluation_prints_one_json_object_and_ends_with_0(trained, summary, run_command):
    ended = run_command("rnnjax.evaluate", trained[0])
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["split"] == "test"
    assert found["step"] == 35
    assert found["accuracy"] == pytest.approx(summary["final"]["test"]["accuracy"], rel=1e-5)
    assert found["loss"] == pytest.approx(summary["final"]["test"]["loss"], rel=1e-5)
    assert "Traceback" not in ended.err


def test_another_split_and_the_last_checkpoint(trained, summary, call):
    code, out, sentences, _ = call(evaluate.main, trained[0], "--split", "validation", "--checkpoint", "last")
    assert (code, sentences) == (0, [])
    found = json.loads(out)
    assert (found["split"], found["checkpoint"]) == ("validation", "last")
    assert found["loss"] == pytest.approx(summary["final"]["validation"]["loss"], rel=1e-4)


def test_a_directory_without_a_run_ends_with_2(call, tmp_path):
    code, out, sentences, err = call(evaluate.main, tmp_path)
    assert (code, out) == (2, "")
    assert err == sentences[0] + "\n"
    assert f"{tmp_path} holds no run" in err


def test_other_data_for_the_embedded_digits_ends_with_2(trained, call):
    code, out, sentences, err = call(evaluate.main, trained[0], "--data", "/data")
    assert (code, out) == (2, "")
    assert err == sentences[0] + "\n"
    assert "embedded digits come with a package" in err


def test_a_run_without_checkpoints_ends_with_1(trained, call, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    code, out, sentences, err = call(evaluate.main, path)
    assert (code, out) == (1, "")
    assert err == sentences[0] + "\n"
    assert re.search(f"{path}.* train first", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: directory; see python -m rnnjax.evaluate --help"),
        (["DIR", "--split", "holdout"], "--split: invalid choice: 'holdout'"),
        (["DIR", "--checkpoint", "newest"], "--checkpoint: invalid choice: 'newest'"),
        (["DIR", "DIR"], "unrecognized arguments: DIR"),
    ],
)
def test_bad_usage_ends_with_2_and_one_sentence(arguments, message, call):
    code, out, sentences, err = call(evaluate.main, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in sentences[0]


def test_a_directory_that_is_read_only_and_in_use_is_evaluated(trained, summary, call, read_only, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "run")
    with locked(path), read_only(tmp_path):
        code, out, sentences, err = call(evaluate.main, path)
    assert (code, sentences) == (0, []), err
    assert json.loads(out)["accuracy"] == pytest.approx(summary["final"]["test"]["accuracy"], rel=1e-5)
    assert "Traceback" not in err
