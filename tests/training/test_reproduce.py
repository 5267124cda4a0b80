import json
import math
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fixtures.thorough import once_more

from rnnjax import experiments, reproduce, train
from rnnjax.commands import exit_code
from rnnjax.errors import ConfigError, TrainingError
from rnnjax.experiments import EXPERIMENTS, Experiment, Figure

TOY = Path(__file__).parent / "toytasks" / "config.py"
ROWS = [
    {"step": 1, "split": "train", "loss": 4.0, "accuracy": 1.0},
    {"step": 2, "split": "train", "loss": 3.0, "accuracy": 0.5},
    {"step": 2, "split": "validation", "loss": 3.5, "accuracy": 0.6},
    {"step": 3, "split": "train", "loss": 2.0, "accuracy": 1.0},
    {"step": 4, "split": "train", "loss": 1.0, "accuracy": 1.0},
    {"step": 4, "split": "validation", "loss": 3.7, "accuracy": 0.7},
    {"step": 4, "split": "test", "loss": 9.0, "accuracy": 0.1},
]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (experiments.final("validation", "loss"), 3.7),
        (experiments.last_steps("loss", 2), 1.5),
        (experiments.around("loss", 2, 3), 2.5),
        (experiments.at_step("validation", "accuracy", 2), 0.6),
        (experiments.always_right_from, 3),
    ],
    ids=["final", "last_steps", "around", "at_step", "right from"],
)
def test_figures_are_read_off_the_lines_of_a_run(read, expected):
    assert read(ROWS) == expected


def test_a_run_that_is_never_right_for_good_is_right_from_no_step():
    assert experiments.always_right_from(ROWS[:2]) == math.inf
    assert experiments.always_right_from(ROWS[:1]) == 1


def test_every_experiment_names_a_config_that_exists(monkeypatch):
    from rnnjax.config_flags import read_config

    monkeypatch.chdir(Path(__file__).parents[2])
    for name, experiment in EXPERIMENTS.items():
        config, _, _ = read_config(["--config", experiment.config])
        assert config.seed == 0, name
        assert len({figure.what for figure in experiment.figures}) == len(experiment.figures) >= 1, name


@pytest.fixture
def toy(monkeypatch, tmp_path, process_environment):
    """One experiment on the toy task; the folder in which it is run."""
    loss = Figure("test loss", experiments.final("test", "loss"), "0.1", 100.0, higher=False)
    wrong = Figure("test accuracy", experiments.final("test", "accuracy"), "none", 1.5)
    monkeypatch.setattr(
        reproduce,
        "EXPERIMENTS",
        {
            "toy": Experiment(f"{TOY}:short", (loss, wrong)),
            "never": Experiment(f"{TOY}:short", (loss,)),
        },
    )
    for name, value in process_environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture(params=["by calls", once_more("by processes")])
def ways_to_run(request, monkeypatch):
    """Runs the commands in this process, as the test of one that fails runs a process."""

    def run(command, **_):
        assert command[:3] == [sys.executable, "-m", "rnnjax.train"]
        return subprocess.CompletedProcess(command, exit_code(train.main, command[3:]))

    if request.param == "by calls":
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a command sets its own
        monkeypatch.setattr(reproduce, "subprocess", types.SimpleNamespace(run=run))


def arguments(folder, *names, seeds=2):
    places = {"workdir": folder / "runs", "results": folder / "results.json", "table": folder / "results.md"}
    return [*names, f"--seeds={seeds}", "--device=cpu", *(f"--{name}={path}" for name, path in places.items())]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.usefixtures("programs_shared", "ways_to_run")
def test_an_experiment_is_run_once_a_seed_and_written_beside_the_source(toy):
    reproduce.main(arguments(toy, "toy"))
    result = json.loads((toy / "results.json").read_text())["toy"]
    assert len(set(result["figures"]["test loss"])) == 2
    assert result["device"]["platform"] == "cpu"
    table = (toy / "results.md").read_text()
    assert "| toy | test loss | 0.1 | " in table
    reached, missed, unknown = (line.split(" | ") for line in table.splitlines() if "test " in line)
    mean = sum(result["figures"]["test loss"]) / 2
    assert float(reached[3].split(" ± ")[0]) == pytest.approx(mean, abs=1e-4)
    assert float(reached[6]) == pytest.approx(mean - 100, abs=1e-4)
    assert (reached[5], reached[7]) == ("≤ 100", "yes")
    assert (missed[5], missed[7]) == ("≥ 1.5", "**no**")
    assert unknown[3] == "not measured"
    before = [file.stat().st_mtime_ns for file in sorted((toy / "runs").rglob("summary.json"))]
    assert len(before) == 2
    reproduce.main(arguments(toy, "toy"))
    assert [file.stat().st_mtime_ns for file in sorted((toy / "runs").rglob("summary.json"))] == before


def test_unknown_experiments_are_refused_before_anything_is_run(toy):
    with pytest.raises(ConfigError, match="unknown experiment 'nothing'; choose from toy, never"):
        reproduce.main(arguments(toy, "toy", "nothing"))
    with pytest.raises(ConfigError, match="--seeds must be from 1 to 1000, got 100000000000"):
        reproduce.main(["--all", "--seeds", "100000000000"])
    with pytest.raises(ConfigError, match="--seeds must be from 1 to 1000, got 0"):
        reproduce.main(arguments(toy, "toy", seeds=0))
    assert list(toy.iterdir()) == []


def test_runs_with_other_fields_write_no_results_of_the_experiments():
    with pytest.raises(ConfigError, match=r"--config.epochs=1 makes other results than docs/results.json is for"):
        reproduce.main(["hihello_basic", "--config.epochs=1"])
    with pytest.raises(ConfigError, match=r"unrecognized .*: --colour=red; see python -m rnnjax.reproduce --help"):
        reproduce.main(["hihello_basic", "--colour=red"])


def test_without_a_checkout_results_lie_beside_the_runs(tmp_path, monkeypatch):
    assert reproduce.parse(["x"]).table == Path("docs/results.md")
    monkeypatch.chdir(tmp_path)
    options = reproduce.parse(["x", "--workdir=runs"])
    assert (options.results, options.table) == (Path("runs/results.json"), Path("runs/results.md"))


def test_a_run_that_fails_is_named(toy, monkeypatch):
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"bad": Experiment(f"{TOY}:unknown", EXPERIMENTS["mnist_gru150"][1])})
    with pytest.raises(TrainingError, match=r"config.py:unknown, seed 0: exit code 2; run again"):
        reproduce.main(arguments(toy, "--all"))


def test_the_list_names_every_experiment_and_its_config(capsys):
    reproduce.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[name, one.config] for name, one in EXPERIMENTS.items()]
