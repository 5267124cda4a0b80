import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import jax
import pytest

from rnnjax import sweep
from rnnjax.training.sweeps.group_record import GroupRecord

# ml_collections reads config files by a method that Python has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--config", "configs/hihello.py:basic", "--config.epochs=4", "--config.evaluate_every=2", "--seeds=3"]
RATES = "--config.optimizer.learning_rate=0.1,0.01"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A small sweep of two rates and three seeds: its directory, and what its command printed."""
    path, said = tmp_path_factory.mktemp("swept") / "sweep", io.StringIO()
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # as in the tests of this folder, for the same numbers
    with contextlib.chdir(REPOSITORY), contextlib.redirect_stdout(said):
        sweep.main([*SMALL, RATES, "--workdir", str(path)])
    jax.config.update("jax_disable_most_optimizations", before)
    return path, said.getvalue()


def test_a_sweep_leaves_results_metrics_and_pictures(swept):
    path, _ = swept
    assert {file.name for file in path.iterdir()} == {"config.json", "metrics.jsonl", "sweep.json", "plots", "groups"}
    assert {picture.name for picture in (path / "plots").iterdir()} == {"loss.png", "accuracy.png"}
    results = json.loads((path / "sweep.json").read_text())
    expected = [(seed, {"optimizer.learning_rate": rate}) for rate in (0.1, 0.01) for seed in (0, 1, 2)]
    assert [(run["seed"], run["values"]) for run in results["runs"]] == expected
    assert all(run["final"]["test"]["step"] == 4 for run in results["runs"])
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["run"] == 5 and row["split"] == "validation"] == [2, 4]
    of_optimizer = {"learning_rate", "gradient_norm", "update_norm"}
    assert rows[0].keys() == {"run", "step", "epoch", "split", "loss", "accuracy"} | of_optimizer


def test_the_table_has_a_line_a_point_and_names_the_best(swept):
    path, out = swept
    results = json.loads((path / "sweep.json").read_text())
    head, *lines, best, kept, time = out.splitlines()
    names = ["learning_rate", "runs", "validation", "loss", "validation", "accuracy", "test", "loss"]
    assert all(name in head for name in names)
    assert len(lines) == 2
    for line, point in zip(lines, results["points"]):
        loss = point["final"]["test"]["loss"]
        assert re.match(rf"^ *{point['values']['optimizer.learning_rate']} +3 ", line)
        assert f"{loss['mean']:.4f} ± {loss['std']:.4f}" in line
    means = [point["final"]["validation"]["accuracy"]["mean"] for point in results["points"]]
    assert best.startswith(f"best: learning_rate={(0.1, 0.01)[means.index(max(means))]} (validation accuracy ")
    assert re.match(rf"runs kept: 1, the best is run {results['best']} \(learning_rate=.*, seed=\d, accuracy ", kept)
    assert re.match(r"[\d.]+ s, runs: 6, programs: 1, [\d.]+ s compiling, on 2 x ", time)


def test_a_sweep_that_is_complete_is_not_done_again(swept, call):
    path, out = swept
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    code, again, sentences, _ = call(sweep.main, *SMALL, RATES, "--workdir", path)
    assert (code, again, sentences) == (0, out, [])
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("--config.optimizer.learning_rate=0.1,0.02", "a sweep with a run that this one has not (learning_rate=0.01, "),
        ("--seeds=2", "a sweep with a run that this one has not (learning_rate=0.1, seed=2)"),
        ("--config.epochs=5", "a run of another config (different: epochs)"),
        ("--at-once=2", "a run of another config (different: sweep.at_once)"),
    ],
)
def test_the_work_directory_of_another_sweep_is_refused(change, reason, swept, call):
    path, _ = swept
    code, out, sentences, _ = call(sweep.main, *SMALL, RATES, change, "--workdir", path)
    assert (code, out, len(sentences)) == (2, "", 1)
    assert f"{path} holds {reason}" in sentences[0]


def test_the_same_command_with_more_seeds_adds_them(swept, call, tmp_path):
    path = shutil.copytree(swept[0], tmp_path / "sweep")
    code, out, _, _ = call(sweep.main, *SMALL, RATES, "--seeds=4", "--workdir", path)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[1:3]] == ["4", "4"]
    assert "runs: 8, programs: 2" in out


def test_the_work_directory_of_a_sweep_is_none_of_training(swept, call):
    from rnnjax import train

    path, _ = swept
    code, _, sentences, _ = call(train.main, *SMALL[:-1], "--config.optimizer.learning_rate=0.1", "--workdir", path)
    assert code == 2
    assert "different: sweep" in sentences[0]


def test_a_signal_ends_with_75_and_the_same_command_goes_on(swept, call, tmp_path, monkeypatch):
    real, path, signals = GroupRecord.write, tmp_path / "sweep", iter([signal.SIGINT])

    def write(self, finished):
        for number in signals:
            os.kill(os.getpid(), number)
        real(self, finished)

    with monkeypatch.context() as patch:
        patch.setattr(GroupRecord, "write", write)
        with pytest.raises(SystemExit) as ended:
            call(sweep.main, *SMALL, RATES, "--workdir", path)
    assert ended.value.code == 75
    code, _, _, _ = call(sweep.main, *SMALL, RATES, "--workdir", path)
    assert code == 0
    assert (path / "metrics.jsonl").read_text() == (swept[0] / "metrics.jsonl").read_text()


BAD_USAGE = [
    (["--init_from", "x"], "every run of a sweep begins afresh, without --init_from"),
    (["--seeds=0"], "--seeds must be at least 1, got 0"),
    (["--seeds=100000000000"], "a sweep has at most 100000 runs, and --seeds and the lists make 100000000000"),
    (["--seeds=two"], "--seeds.*'two'"),
    (["--seeds"], "--seeds"),
    (["--at-once=0"], "--at-once must be at least 1, got 0"),
    (["--config.colour=1,2"], "colour"),
    (["--config.optimizer.colour=1,2"], "colour"),
    (["--config.optimizer.learning_rate=1e-3,fast"], "learning_rate.*'fast'"),
    (["--config.optimizer.learning_rate=1e-3,"], "learning_rate has an empty value in '1e-3,'"),
    (["--config.optimizer.learning_rate=1e-3,0.001"], "learning_rate has a value twice in '1e-3,0.001'"),
    (["--config.optimizer.learning_rate=1e-3,-1"], "learning_rate must be positive, got -1.0"),
    (["--config.cell.hidden_size=4,4.5"], "hidden_size.*'4.5'"),
    (["--config.seed=1,2"], "seeds from --seeds"),
    (["--config.seed=4294967295"], "seed must be below 4294967296"),
    (["--config.task=mnist,hihello"], "give one config.task"),
    (["--config.parallel.batch=all"], 'parallel.batch is "all", but the runs of a sweep share the devices'),
    (["more"], "unexpected argument 'more'"),
    (["--colour=red"], "colour"),
    (["--config.batch_size=2"], "batch_size is 2, but there are 1 training examples"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_USAGE, ids=[case[1][:40] for case in BAD_USAGE])
def test_bad_usage_ends_with_2_and_one_sentence_and_leaves_nothing(arguments, message, call, tmp_path):
    code, out, sentences, _ = call(sweep.main, *SMALL, *arguments, "--workdir", tmp_path / "sweep")
    assert (code, out, len(sentences)) == (2, "", 1)
    assert re.search(message, sentences[0])
    assert not (tmp_path / "sweep").exists()


def test_without_ray_a_sentence_says_what_to_install(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, sentences, _ = call(sweep.main, *SMALL, "--ray", "--workdir", tmp_path / "sweep")
    assert (code, out) == (2, "")
    assert sentences == ['rnnjax: --ray needs the package ray; install it with: pip install "rnnjax[ray]"']
    assert not (tmp_path / "sweep").exists()
