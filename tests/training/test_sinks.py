"""Lines of a run, wherever they go besides metrics.jsonl: none lost, none doubled, and no run ends for a sink."""

import importlib.util
import json
import sys
import types
import warnings

import numpy as np
import pytest
from toytasks.runs import run_training, scalars, sign_config, summaries
from toytasks.sinks import Keeping

from rnnjax import evaluate
from rnnjax.config_flags import read_config
from rnnjax.config_group import to_dict
from rnnjax.errors import ConfigError
from rnnjax.optimizer import build_schedule
from rnnjax.tasks import build_task
from rnnjax.training.directory.histograms import histogram_row
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.record import Record
from rnnjax.training.sinks.named import followers
from rnnjax.training.sinks.tensorboard import TensorBoard

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")

KEEPING, FAILING = "toytasks.sinks:Keeping", "toytasks.sinks:Failing"
PLACE = {"step", "epoch", "split"}


def row(step, split="train", **metrics):
    return {"step": step, "epoch": 1, "split": split, **metrics}


def tags(directory):
    """The tags of what is in TensorBoard's event file."""
    (path,) = (directory / "tensorboard").iterdir()
    return [value.tag for value in summaries(path)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which one sink keeps everything, one fails at its second write, and histograms are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeping, "kept", [])
        config = sign_config(epochs=2, sinks=(KEEPING, FAILING), histograms=True)
        yield run_training(tmp_path_factory.mktemp("runs") / "run", config), Keeping.kept


def test_a_sink_of_ones_own_gets_the_config_every_line_and_the_end(run):
    done, kept = run
    assert kept[0] == ("open", to_dict(done.config), done.directory.path)
    lines = [line for what, *rest in kept if what == "write" for line in rest[0]]
    assert [line for line in lines if line["split"] != "histograms"] == done.metrics
    assert kept[-1] == ("close",)


def test_a_sink_that_fails_costs_a_line_and_not_the_run(tmp_path, caplog):
    done = run_training(tmp_path, sign_config(epochs=1, sinks=(FAILING, KEEPING)))
    assert [message for message in caplog.messages if "Failing" in message] == [
        f"the sink {FAILING} has failed and gets nothing more of this run (OSError: no way there)"
    ]
    assert done.summary["final"].keys() == {"train", "validation", "test"}
    assert Keeping.kept[-1] == ("close",)


def test_after_a_kill_a_sink_has_every_line_once(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    config, real = sign_config(epochs=2, steps_per_call=4, sinks=(KEEPING,), histograms=True), Record.write
    whole = run_training(tmp_path / "whole", config)
    written = []

    def write(self, results):
        written.append(results.step)
        real(self, results)
        self.checkpoints.wait()
        if len(written) == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Record, "write", write)
        with pytest.raises(Killed):
            run_training(tmp_path / "run", config)
    Keeping.kept.clear()
    resumed = run_training(tmp_path / "run", config)
    lines = [line for what, *rest in Keeping.kept if what == "write" for line in rest[0]]
    assert len(Keeping.kept[1][1]) > 1  # those of the killed process, at once
    assert sorted(map(json.dumps, lines)) == sorted(
        json.dumps(line) for line in [*resumed.metrics, *histograms_of(resumed)]
    )
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert resumed.metrics == whole.metrics
    assert histograms_of(resumed) == histograms_of(whole)
    assert len(histograms_of(whole)) == 2


def histograms_of(run):
    return [json.loads(line) for line in (run.directory.path / "histograms.jsonl").read_text().splitlines()]


def test_lines_of_training_tell_rate_and_norms_and_tensorboard_has_them(run):
    done, _ = run
    schedule = build_schedule(done.config.optimizer, 16, 8)
    for line in done.metrics:
        assert (line["split"] == "train") == ("update_norm" in line) == ("gradient_norm" in line)
        if line["split"] == "train":
            assert line["learning_rate"] == pytest.approx(schedule(line["step"] - 1))
            assert line["gradient_norm"] > 0 < line["update_norm"]
    assert ("train/update_norm", 16) in {(tag, step) for tag, step, _ in scalars(done.directory.tensorboard)}


def test_tensorboard_has_histograms_and_hyperparameters(run):
    done, _ = run
    found = tags(done.directory.path)
    assert sum(tag.startswith("histograms/") for tag in found) == 2 * (len(histograms_of(done)[0]) - len(PLACE)) > 0
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(found)


def test_a_histogram_counts_every_finite_number():
    line = histogram_row({"w": np.array([0.0, 1.0, 3.0, np.nan]), "b": np.zeros(2)}, 5, 1)
    assert (line["step"], line["split"]) == (5, "histograms")
    assert sum(line["w"]["counts"]) == 3
    assert (line["w"]["edges"][0], line["w"]["edges"][-1]) == (0.0, 3.0)
    assert sum(line["b"]["counts"]) == 2


def test_events_are_those_in_metrics_whatever_was_there_before(tmp_path):
    one, other = TensorBoard(), TensorBoard()
    one.open({}, tmp_path)
    one.write([row(4, loss=1.0), row(8, loss=9.0)])
    one.close()
    (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
    other.open({}, tmp_path)
    other.write([row(4, loss=1.0), row(8, loss=0.5)])
    other.close()
    (tmp_path / "tensorboard" / "notes.txt").unlink()
    assert scalars(tmp_path / "tensorboard") == [("train/loss", 4, 1.0), ("train/loss", 8, 0.5)]


def test_of_several_processes_those_that_do_not_write_have_no_sinks(tmp_path, monkeypatch):
    monkeypatch.setattr(RunDirectory, "write_summary", lambda self, summary: None)
    directory = RunDirectory(tmp_path, writes=False)
    Keeping.kept.clear()

    from rnnjax.training.loop import train

    config = sign_config(epochs=1, sinks=(KEEPING,))
    train(build_task(config), config, directory)
    assert Keeping.kept == []
    assert not (tmp_path / "tensorboard").exists()


def test_pictures_are_handed_over(pictures, tmp_path):
    Keeping.kept.clear()
    run_training(tmp_path, sign_config(epochs=1, sinks=(KEEPING,)))
    figures = {rest[0]: rest[1] for what, *rest in Keeping.kept if what == "figure"}
    assert figures == {name: tmp_path / "plots" / f"{name}.png" for name in ("accuracy", "loss")}
    assert {"plots/accuracy", "plots/loss"} <= set(tags(tmp_path))


def test_evaluating_a_run_imports_no_sink_that_its_config_names(run, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text("raise RuntimeError('their code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    path = run[0].directory.path / "config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"sinks": ["theirs:Sink"]}))
    evaluate.main([str(run[0].directory.path)])
    assert "theirs" not in sys.modules
    path.write_text(before)


REFUSED = {
    "unknown": (("wandbb",), "unknown sink 'wandbb'; choose from wandb, mlflow.*did you mean 'wandb'"),
    "no name": (("toytasks.sinks:",), "unknown sink 'toytasks.sinks:'"),
    "no module": (("toytasks.nothing:Sink",), "unknown sink 'toytasks.nothing:Sink': there is no module"),
    "no class": (("toytasks.sinks:Nothing",), "toytasks.sinks has no class Nothing"),
    "no sink": (("json:JSONDecoder",), "'json:JSONDecoder' is no sink: it has no method open, write, figure, close"),
    "not made": (("toytasks.sinks:Unmade",), "cannot be made .ValueError: not today"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_sink_is_refused_before_training(why, tmp_path):
    names, message = REFUSED[why]
    with pytest.raises(ConfigError, match=message):
        run_training(tmp_path, sign_config(sinks=names))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_with_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'install with: pip install "rnnjax\[{name}\]"'):
        followers([name])


def test_sinks_are_named_by_a_flag_and_may_differ_where_a_run_goes_on(tmp_path):
    config, _, _ = read_config(["--config", "hihello", f"--config.sinks=wandb,{KEEPING}"])
    assert config.sinks == ("wandb", KEEPING)
    RunDirectory(tmp_path).claim(to_dict(sign_config()))
    RunDirectory(tmp_path).check(to_dict(sign_config(sinks=("mlflow",), histograms=True)))


# Weights and Biases, and MLflow, as they are called


class FakeWandb(types.ModuleType):
    """Notes what is logged; a run that is resumed has 4 steps already."""

    def __init__(self):
        super().__init__("wandb")
        self.logged, self.begun = [], []
        self.Histogram, self.Image = (lambda np_histogram: "histogram"), (lambda path: "image")

    def init(self, **options):
        self.begun.append(options)
        return types.SimpleNamespace(
            resumed=len(self.begun) > 1,
            step=4,
            log=lambda values, step=None: self.logged.append((step, values)),
            finish=lambda: self.logged.append("end"),
        )


HISTOGRAM = row(4, "histograms", w={"edges": [0.0, 1.0], "counts": [2]})


def test_wandb_gets_the_lines_once_under_one_id(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    for _ in range(2):
        sink = followers(["wandb"])["wandb"]
        sink.open({"seed": 1, "cell": {"kind": "LSTM"}}, tmp_path)
        sink.write([row(2, loss=1.0), HISTOGRAM])
    sink.figure("loss", tmp_path / "loss.png")
    sink.close()
    first, second = fake.begun
    assert first["id"] == second["id"]
    assert first["config"] == {"seed": 1, "cell.kind": "LSTM"}
    last = (4, {"histograms/w": "histogram", "epoch": 1})
    assert fake.logged == [(2, {"train/loss": 1.0, "epoch": 1}), last, last, (None, {"plots/loss": "image"}), "end"]


class FakeMLflow(types.ModuleType):
    """Notes what its client is told."""

    def __init__(self):
        super().__init__("mlflow")
        self.told = []
        make = lambda *fields: fields  # noqa: E731
        self.entities = types.SimpleNamespace(Param=make, Metric=lambda name, value, now, step: (name, value, step))

    def MlflowClient(self, tracking_uri):  # noqa: N802
        told = self.told
        return types.SimpleNamespace(
            get_experiment_by_name=lambda name: None,
            create_experiment=lambda name, place: "7",
            create_run=lambda *a, **k: types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"run{len(told)}")),
            delete_run=lambda run: told.append(("delete", run)),
            log_batch=lambda run, metrics=(), params=(): told.append((run, [*metrics, *params])),
            log_artifact=lambda run, path, folder: told.append(("picture", folder)),
            set_terminated=lambda run: told.append("end"),
        )


def test_mlflow_replaces_the_run_of_the_process_before(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", fake := FakeMLflow())
    for _ in range(2):
        sink = followers(["mlflow"])["mlflow"]
        sink.open({"seed": 1}, tmp_path)
        sink.write([row(2, loss=1.0), HISTOGRAM])
    sink.figure("loss", tmp_path / "loss.png")
    sink.close()
    assert fake.told == [
        ("run0", [("seed", "1")]),
        ("run0", [("train/loss", 1.0, 2)]),
        ("delete", "run0"),
        ("run3", [("seed", "1")]),
        ("run3", [("train/loss", 1.0, 2)]),
        ("picture", "plots"),
        "end",
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_packages_themselves_take_what_they_are_given(name, tmp_path, monkeypatch):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            sink = followers([name])[name]
            sink.open(to_dict(sign_config()), tmp_path)
            sink.write([row(2, loss=1.0), HISTOGRAM])
            sink.close()
    left = {"wandb": "wandb/offline-run-*", "mlflow": "mlflow/mlflow.db"}[name]
    assert len(list(tmp_path.glob(left))) == 1
