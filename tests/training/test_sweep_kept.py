"""The runs of a sweep whose parameters are kept, found by their names."""

import json
from pathlib import Path

import pytest

import rnnjax
from rnnjax.errors import ConfigError
from rnnjax.training.directory.finding import find_run
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.evaluation import evaluate_run
from rnnjax.training.sweeps.grid import read_grid
from rnnjax.training.sweeps.report import table
from rnnjax.training.sweeps.sweep import sweep, train_in_turn

pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]

TOY = str(Path(__file__).parent / "toytasks" / "config.py")
SMALL = ["--config", TOY, "--config.epochs=2", "--config.examples=24", "--config.optimizer.learning_rate=1e-2,1e-1"]


def swept_with(keep, path, seeds=1):
    return sweep(read_grid(SMALL, seeds, seeds, keep)[0], RunDirectory(path), train_in_turn)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two rates and two seeds, a group for each rate."""
    path = tmp_path_factory.mktemp("swept") / "sweep"
    return path, swept_with("best", path, 2)


def best_of(results, runs):
    """The first run of those whose best evaluation has the highest accuracy."""
    return max(runs, key=lambda run: (results["runs"][run]["best"]["accuracy"], -run))


def test_the_best_run_of_every_group_is_kept_and_opened_by_its_name(swept):
    path, results = swept
    first, second = best_of(results, [0, 1]), best_of(results, [2, 3])
    assert results["kept"] == {str(first): f"groups/0/runs/{first}", str(second): f"groups/1/runs/{second}"}
    assert results["best"] == best_of(results, [first, second])
    for name, number in (("best", results["best"]), (str(first), first), (str(second), second)):
        expected = results["runs"][number]
        run = rnnjax.load_run(path / name, trust=True)
        assert run.config.seed == expected["seed"]
        assert run.config.optimizer.learning_rate == expected["values"]["optimizer.learning_rate"]
        assert run.summary["best"] == expected["best"]
        found = evaluate_run(f"{path}/{name}", "validation", "best", None, trusted=True)
        assert found["step"] == expected["best"]["step"]
        assert found["loss"] == pytest.approx(expected["best"]["loss"], rel=1e-4)


def test_runs_that_average_their_parameters_are_kept_by_the_average(tmp_path):
    arguments = [*SMALL, "--config.optimizer.ema_decay=0.9"]
    results = sweep(read_grid(arguments, 1, 1, "all")[0], RunDirectory(tmp_path / "sweep"), train_in_turn)
    for number, expected in enumerate(results["runs"]):
        found = evaluate_run(f"{tmp_path}/sweep/{number}", "test", "last", None, trusted=True)
        assert found["loss"] == pytest.approx(expected["final"]["test"]["loss"], rel=1e-4)


def test_what_is_not_the_name_of_a_kept_run_is_refused(swept):
    path, results = swept
    with pytest.raises(ConfigError, match=r"holds a sweep; name one of its runs, .*/best, "):
        find_run(path)
    lost = next(run for run in range(4) if str(run) not in results["kept"])
    with pytest.raises(ConfigError, match=rf"keeps no run '{lost}', only .*/best, .*--keep all"):
        find_run(path / str(lost))
    with pytest.raises(ConfigError, match="holds no run"):
        rnnjax.load_run(path / "groups")


@pytest.mark.parametrize(
    ("keep", "expected"), [("all", {"0", "1"}), pytest.param("none", set(), marks=pytest.mark.thorough)]
)
def test_all_runs_are_kept_or_none_and_a_single_run_has_no_deviation(keep, expected, tmp_path):
    results = swept_with(keep, tmp_path)
    assert results["kept"].keys() == expected
    assert results["best"] == (best_of(results, [0, 1]) if expected else None)
    assert {path.parent.name for path in tmp_path.rglob("model.json")} == expected
    assert "\u00b1" not in table(results)
    assert json.loads((tmp_path / "sweep.json").read_text())["kept"] == results["kept"]
    if not expected:
        with pytest.raises(ConfigError, match="holds a sweep that has kept no run: end it by the same command"):
            find_run(tmp_path / "best")


def test_another_choice_of_runs_to_keep_is_another_sweep(swept):
    with pytest.raises(ConfigError, match=r"different: sweep.keep"):
        swept_with("all", swept[0], 2)
    with pytest.raises(ConfigError, match="--keep must be one of best, all, none, got 'most'"):
        swept_with("most", swept[0])
