"""A sweep grows by the same command with more seeds or values: what it has stays, and the whole is that of one go."""

import json
import os
import shutil
import signal

import pytest
from fixtures.thorough import once_more
from toytasks.grids import grid_of

from rnnjax.errors import ConfigError, DataError
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.interruption import Interrupted
from rnnjax.training.sweeps import sweep as sweeping
from rnnjax.training.sweeps.group import train_group
from rnnjax.training.sweeps.group_record import GroupRecord
from rnnjax.training.sweeps.sweep import sweep, train_in_turn

pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]
SWEPT = "--config.optimizer.learning_rate="
KIND = "--config.cell.kind="


def trained(grid, path):
    return sweep(grid, RunDirectory(path), train_in_turn)


def by_seed_and_values(results):
    """Returns the results of every run without its number."""
    return {json.dumps([run["seed"], run["values"]], sort_keys=True): {**run, "run": None} for run in results["runs"]}


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


SMALL = grid_of(f"{SWEPT}1e-2,1e-1", seeds=1)
LARGE = grid_of(f"{SWEPT}1e-3,1e-1,1e-2", seeds=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "sweep"
    return path, trained(SMALL, path)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    return trained(LARGE, tmp_path_factory.mktemp("large") / "sweep")


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the small sweep, to grow."""
    return shutil.copytree(small[0], tmp_path / "sweep")


def test_more_seeds_and_values_are_the_sweep_of_one_go_and_what_was_there_stays(small, at_once, copy, monkeypatch):
    before, config = contents(copy / "groups"), json.loads((copy / "config.json").read_text())
    results = trained(LARGE, copy)
    assert by_seed_and_values(results) == by_seed_and_values(at_once)
    assert results["runs"][:2] == small[1]["runs"]
    assert [run["run"] for run in results["runs"]] == list(range(6))
    assert contents(copy / "groups").items() >= before.items()
    for point in at_once["points"]:
        assert point in results["points"]
    assert sorted({row["run"] for row in RunDirectory(copy).metrics()}) == list(range(6))
    # A value in front of the first changes nothing of the config that the runs share.
    assert json.loads((copy / "config.json").read_text()) | {"sweep": None} == config | {"sweep": None}
    whole = contents(copy)
    monkeypatch.setattr(sweeping, "train_group", lambda *arguments: pytest.fail("trained again"))
    assert trained(LARGE, copy) == results
    assert contents(copy) == whole


def test_a_sweep_grows_twice(at_once, copy):
    trained(grid_of(f"{SWEPT}1e-2,1e-1", seeds=2), copy)
    results = trained(LARGE, copy)
    assert [len(group["runs"]) for group in results["groups"]] == [2, 2, 2]
    assert by_seed_and_values(results) == by_seed_and_values(at_once)


@pytest.mark.parametrize("stopped", [LARGE, once_more(SMALL)], ids=["while it grows", "before it grows"])
def test_a_sweep_that_was_stopped_goes_on_and_grows(stopped, small, at_once, copy, tmp_path, monkeypatch):
    path, real, written = copy if stopped is LARGE else tmp_path / "begun", GroupRecord.write, []

    def write(self, finished):
        written.append(finished)
        if len(written) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, finished)

    with monkeypatch.context() as patch:
        patch.setattr(GroupRecord, "write", write)
        with pytest.raises(Interrupted):
            trained(stopped, path)
    assert written
    results = trained(LARGE, path)
    assert by_seed_and_values(results) == by_seed_and_values(at_once)
    assert results["runs"][:2] == small[1]["runs"]


@pytest.mark.parametrize(
    ("arguments", "seeds", "sentence"),
    [
        ([f"{SWEPT}1e-2,1"], 3, r"a run that this one has not \(learning_rate=0.1, seed=0\); .* none may be left out"),
        ([f"{SWEPT}1e-2,1e-1", f"{KIND}GRU,LSTM"], 1, "a sweep over optimizer.learning_rate, not over cell.kind, opt"),
        ([], 1, "a sweep over optimizer.learning_rate, not over seeds alone"),
        ([f"{SWEPT}1e-2,1e-1", "--config.epochs=3"], 2, r"another config \(different: epochs\)"),
        ([f"{SWEPT}1e-2,1e-1", "--config.seed=1"], 2, r"another config \(different: seed\)"),
    ],
)
def test_a_sweep_that_lacks_runs_of_the_directory_or_differs_otherwise_is_refused(arguments, seeds, sentence, copy):
    before = contents(copy)
    with pytest.raises(ConfigError, match=sentence):
        trained(grid_of(*arguments, seeds=seeds), copy)
    assert contents(copy) == before


def test_a_value_that_shares_no_program_with_the_others_leaves_their_groups_as_they_are(tmp_path):
    clipped, path = "--config.optimizer.clip_norm=", tmp_path / "sweep"
    trained(grid_of(f"{clipped}0.5,1.0"), path)
    results = trained(grid_of(f"{clipped}0.5,1.0,none"), path)
    assert [group["runs"] for group in results["groups"]] == [[0, 1], [2]]
    assert [(run["run"], run["values"]["optimizer.clip_norm"]) for run in results["runs"]] == [
        (0, 0.5),
        (1, 1),
        (2, None),
    ]


def test_fields_in_another_order_are_the_sweep_that_was_begun(tmp_path, monkeypatch):
    rates, kinds, path = f"{SWEPT}1e-2,1e-1", f"{KIND}GRU,BasicRNN", tmp_path / "sweep"
    trained_groups = []

    def first_only(group, *others):
        trained_groups.append(group)
        if len(trained_groups) == 2:
            raise KeyboardInterrupt
        train_group(group, *others)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "train_group", first_only)
        with pytest.raises(KeyboardInterrupt):
            trained(grid_of(rates, kinds), path)
    runs = trained(grid_of(kinds, rates), path)["runs"]
    found = [(run["run"], run["values"]["optimizer.learning_rate"], run["values"]["cell.kind"]) for run in runs]
    assert found == [(0, 1e-2, "GRU"), (1, 1e-2, "BasicRNN"), (2, 1e-1, "GRU"), (3, 1e-1, "BasicRNN")]


def test_a_sweep_does_not_grow_on_other_data(copy, monkeypatch):
    before = contents(copy)
    monkeypatch.setenv("SIGN_DATA", "1")
    with pytest.raises(DataError, match=r"the runs in .* were trained on other data than there is now; restore that"):
        trained(LARGE, copy)
    assert contents(copy) == before


def test_a_sweep_does_not_grow_where_a_complete_group_is_of_another_config(copy):
    config = copy / "groups" / "0" / "config.json"
    config.write_text(config.read_text().replace('"epochs": 2', '"epochs": 3'))
    before = contents(copy)
    with pytest.raises(ConfigError, match=r"0 holds a run of another config \(different: epochs\)"):
        trained(LARGE, copy)
    assert contents(copy) == before


@pytest.mark.parametrize(
    "damage",
    [
        {"before": None},
        {"before": [1]},
        {"before": [{"seeds": 1, "values": {}}]},
        {"before": [{"seeds": 1, "values": {"optimizer.learning_rate": [0.1]}}], "values": 3},
        {"before": [{"seeds": 10**30, "values": {"optimizer.learning_rate": [0.1]}}]},
        {"values": {"optimizer.learning_rate": 3}},
    ],
)
def test_what_a_damaged_config_says_of_a_sweep_is_refused(damage, copy):
    stored = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(stored | {"sweep": stored["sweep"] | damage}))
    with pytest.raises(ConfigError, match=r"another config \(different: .*sweep\."):
        trained(LARGE, copy)
