"""Sweeps on toy tasks: their runs are those that training makes, whatever program they share."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.thorough import once_more
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from toytasks import sign
from toytasks.grids import grid_of
from toytasks.runs import assert_identical, data_set, line_config, made_task, params_of, scalars, summaries

from rnnjax.config import DataConfig, OptimizerConfig
from rnnjax.config_group import freeze, to_dict
from rnnjax.errors import ConfigError, DirectoryInUse
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Buckets
from rnnjax.training import engine
from rnnjax.training.directory.finding import find_run
from rnnjax.training.directory.lock import locked
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.loop import train
from rnnjax.training.sweeps import sweep as sweeping
from rnnjax.training.sweeps.grid import Group, Run, groups
from rnnjax.training.sweeps.group import train_group
from rnnjax.training.sweeps.group_record import GroupRecord
from rnnjax.training.sweeps.sweep import sweep, train_in_turn

pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("programs_of_alike_runs"),
]

# All that could get lost on the way: dropout, a schedule, moments, calls that end within an epoch.
ALL = [
    "--config.cell.kind=GRU",
    "--config.cell.dropout.input_rate=0.3",
    "--config.optimizer.warmup_steps=2",
    "--config.steps_per_call=2",
    "--config.call_seconds=0",
]
RATES = ["--config.optimizer.learning_rate=1e-2,1e-1"]


def rows_of(directory, number):
    rows = [row for row in directory.metrics() if row["run"] == number]
    return [{name: value for name, value in row.items() if name != "run"} for row in rows]


def assert_rows_agree(rows, expected):
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == (pytest.approx(other[name], rel=1e-5, abs=1e-6) if type(value) is float else other[name])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two rates times three seeds, in a program of five runs on two devices and one of one run."""
    grid = grid_of(*ALL, *RATES, seeds=3, at_once=5)
    directory = RunDirectory(tmp_path_factory.mktemp("swept") / "sweep")
    return grid, directory, sweep(grid, directory, train_in_turn)


@pytest.mark.parametrize("number", [0, 5])
def test_every_run_has_events_of_its_own_with_its_hyperparameters(number, swept):
    grid, directory, _ = swept
    (path,) = directory.path.glob(f"groups/*/sinks/{number}/tensorboard")
    expected = [
        (f"{row['split']}/{name}", row["step"], np.float32(value))
        for row in rows_of(directory, number)
        for name, value in row.items()
        if name not in ("step", "epoch", "split")
    ]
    assert sorted(scalars(path)) == sorted(expected)
    (file,) = path.iterdir()
    begun = next(value for value in summaries(file) if value.tag == "_hparams_/session_start_info")
    hyperparameters = HParamsPluginData.FromString(begun.metadata.plugin_data.content).session_start_info.hparams
    told = {name: value.number_value for name, value in hyperparameters.items()}
    rate = grid.runs[number].config.optimizer.learning_rate
    assert told == {"seed": grid.runs[number].seed, "optimizer.learning_rate": rate}


@pytest.mark.parametrize("number", [0, once_more(4), once_more(5)])
def test_every_run_is_the_one_that_training_makes(number, swept, tmp_path):
    grid, directory, results = swept
    config = grid.runs[number].config
    alone = RunDirectory(tmp_path)
    alone.claim(to_dict(config))
    summary = train(build_task(config), config, alone)
    assert_rows_agree(rows_of(directory, number), alone.metrics())
    if str(number) in results["kept"]:
        kept = find_run(directory.path / str(number))
        assert_rows_agree(kept.metrics(), alone.metrics())
        assert_rows_agree([kept.summary()["best"]], [summary["best"]])
        for which in ("best", "last"):
            step, params = params_of(kept, which)
            expected_step, expected = params_of(alone, which)
            assert step == expected_step
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, expected)
    run = results["runs"][number]
    assert (run["run"], run["seed"], run["diverged"]) == (number, config.seed, None)
    assert run["values"] == {"optimizer.learning_rate": config.optimizer.learning_rate}
    assert_rows_agree([run["best"]], [summary["best"]])
    assert_rows_agree(list(run["final"].values()), list(summary["final"].values()))


@pytest.mark.parametrize(
    "split",
    [
        ["--config.parallel.batch=2", "--config.batch_size=7"],
        once_more(["--config.parallel.layers=2", "--config.cell.layers=2"]),
        once_more(["--config.parallel.time=2", "--config.cell.kind=LRU"]),
        once_more(["--config.parallel.batch=2", "--config.parallel.map=pmap"]),
    ],
)
def test_runs_that_are_split_over_devices_each_are_those_that_training_makes(split, tmp_path):
    grid, directory = grid_of(*split, *RATES, "--config.epochs=1"), RunDirectory(tmp_path / "sweep")
    assert dict(groups(grid)[0].mesh().shape)["runs"] == 1
    results = sweep(grid, directory, train_in_turn)
    assert len(results["runs"]) == 2
    config, alone = grid.runs[1].config, RunDirectory(tmp_path / "alone")
    alone.claim(to_dict(config))
    train(build_task(config), config, alone)
    assert_rows_agree(rows_of(directory, 1), alone.metrics())
    assert find_run(directory.path / "best").summary()["device"]["count"] == 2


def test_a_sweep_whose_runs_take_more_devices_than_there_are_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="parallel asks for 3 devices for every run of a sweep, but there are 2"):
        sweep(grid_of("--config.parallel.batch=1,3"), RunDirectory(tmp_path), train_in_turn)
    assert not (tmp_path / "config.json").exists()


def test_runs_of_one_program_differ(swept):
    _, directory, results = swept
    losses = {tuple(row["loss"] for row in rows_of(directory, run["run"])) for run in results["runs"]}
    assert len(losses) == 6


@pytest.mark.thorough
def test_a_sweep_is_the_same_every_time(swept, tmp_path):
    grid, directory, results = swept
    again = RunDirectory(tmp_path / "again")
    assert sweep(grid, again, train_in_turn)["runs"] == results["runs"]
    assert again.metrics() == directory.metrics()


def carried_task():
    """Least squares of what is carried from batch to batch."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(24, 3)).astype(np.float32), rng.normal(size=24).astype(np.float32)

    def loss(params, carry, batch, key):
        state = 0.5 * carry + batch["x"] @ params["w"]
        return {"loss": (state - batch["y"]) ** 2}, state

    def init(key):
        return {"w": jax.random.normal(key, (3,))}

    carry = np.zeros(4, np.float32)
    data = data_set(train={"x": x, "y": y})
    return made_task(data, init, loss, "loss", higher_is_better=False, carry=carry, ordered=True)


def bucketed_task():
    """Least squares of the mean of what a bucket leaves of a sequence, with derived metrics and scores."""
    rng = np.random.default_rng(2)
    data = data_set(train={"x": rng.normal(size=(30, 6)).astype(np.float32)})
    of = dict.fromkeys(("train", "validation", "test"), np.arange(30) % 2)

    def loss(params, carry, batch, key):
        return {"loss": (batch["x"].mean(1) * params["w"] - 1) ** 2}, carry

    return made_task(
        data,
        lambda key: {"w": jax.random.normal(key)},
        loss,
        "loss",
        higher_is_better=False,
        buckets=Buckets(of, ({"x": 2}, {"x": 6})),
        metrics=lambda means: means | {"root": means["loss"] ** 0.5},
        scores=lambda params, split: {"weight": float(params["w"])},
    )


@pytest.mark.parametrize(
    ("make_task", "feed"),
    [(carried_task, "device"), once_more(bucketed_task, "device"), once_more(bucketed_task, "host")],
)
def test_carries_buckets_and_feeds_of_every_run_are_those_of_training(make_task, feed, tmp_path):
    task, configs = make_task(), []
    for seed in (4, 2**32 - 1, 6):
        fields = {"epochs": 2, "seed": seed, "steps_per_call": 4, "data": DataConfig(feed=feed)}
        configs.append(line_config(**fields, optimizer=OptimizerConfig(name="adam")))
    group = Group([Run(number, config.seed, {}, config) for number, config in enumerate(configs)], ())
    together = RunDirectory(tmp_path / "together")
    train_group(group, task, together, StopRequest())
    for number, config in enumerate(configs):
        alone = RunDirectory(tmp_path / str(number))
        alone.claim(to_dict(config))
        train(task, config, alone)
        assert_rows_agree(rows_of(together, number), alone.metrics())


def test_seeds_whose_data_differ_share_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "build_task", lambda config: build_task(freeze(sign.Config(length=2 + config.seed))))
    grid = grid_of("--config.optimizer.learning_rate=1e-2,1e-1", seeds=2)
    task, seeds_apart = sweeping.build_first_task(grid)
    assert task.data.splits["train"]["x"].shape[1] == 2
    found = groups(grid, seeds_apart=seeds_apart)
    assert [[run.number for run in group.runs] for group in found] == [[0, 2], [1, 3]]


def test_whether_the_data_differs_by_seed_is_asked_of_all_data_that_is_swept_over(monkeypatch):
    def length(config):
        return config.examples if config.examples < 30 else config.seed + 2

    monkeypatch.setattr(sweeping, "build_task", lambda config: build_task(freeze(sign.Config(length=length(config)))))
    grid = grid_of("--config.examples=24,32", "--config.optimizer.learning_rate=1e-2,1e-1", seeds=2)
    found = groups(grid, seeds_apart=sweeping.build_first_task(grid)[1])
    assert [[run.number for run in group.runs] for group in found] == [[0, 1, 2, 3], [4, 6], [5, 7]]


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path):
    sgd = ["--config.optimizer.name=sgd", "--config.optimizer.schedule=constant"]
    results, all_rows = {}, {}
    for name, rates in {"both": "1e-2,1e38", "without": "1e-2,1e-1"}.items():
        directory = RunDirectory(tmp_path / name)
        results[name] = sweep(grid_of(*sgd, f"--config.optimizer.learning_rate={rates}"), directory, train_in_turn)
        all_rows[name] = directory.metrics()
    fine, diverged = results["both"]["runs"]
    of_the_first = {name: [row for row in rows if row["run"] == 0] for name, rows in all_rows.items()}
    assert_rows_agree(of_the_first["both"], of_the_first["without"])
    assert fine["diverged"] is None
    assert 2 <= diverged["diverged"] <= 6
    assert diverged["best"] == {}
    written = [row for row in all_rows["both"] if row["run"] == 1]
    assert all(row["split"] == "train" and row["step"] < diverged["diverged"] for row in written)
    json.loads((tmp_path / "both" / "sweep.json").read_text(), parse_constant=pytest.fail)


def test_a_sweep_in_a_directory_in_use_is_refused(tmp_path):
    grid = grid_of(seeds=1)
    with locked(tmp_path), pytest.raises(DirectoryInUse, match="is in use by process"):
        sweep(grid, RunDirectory(tmp_path), train_in_turn)
    assert not list(tmp_path.iterdir())


# A group takes four calls: the first stop is within the first group, the second in its last call, the third after it.
@pytest.mark.parametrize(
    ("at", "complete", "trained"), [(2, 0, [5, 5, 1]), once_more(3, 0, [5, 5, 1]), once_more(5, 5, [5, 1, 1])]
)
def test_a_sweep_that_is_stopped_goes_on_to_the_same_end(at, complete, trained, swept, tmp_path, monkeypatch):
    grid, uninterrupted, results = swept
    directory, writes, sizes = RunDirectory(tmp_path / "stopped"), [], []
    real_write, real_train = GroupRecord.write, sweeping.train_group

    def write(self, finished):
        writes.append(finished.step)
        if len(writes) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        real_write(self, finished)

    def train(group, *arguments):
        sizes.append(len(group.runs))
        real_train(group, *arguments)

    monkeypatch.setattr(GroupRecord, "write", write)
    monkeypatch.setattr(sweeping, "train_group", train)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        sweep(grid, directory, train_in_turn)
    assert json.loads((directory.path / "sweep.json").read_text())["runs"] == results["runs"][:complete]
    assert sweep(grid, directory, train_in_turn)["runs"] == results["runs"]
    assert directory.metrics() == uninterrupted.metrics()
    assert sizes == trained
    assert not list(directory.path.glob("groups/*/checkpoints"))
    assert_identical(*(params_of(find_run(each.path / "best"))[1] for each in (directory, uninterrupted)))


def signal_in_evaluation(number):
    """Makes evaluations, of which that of the number begins with a signal."""
    real, begun = engine.Evaluator, []

    def evaluator(*arguments, **options):
        evaluate = real(*arguments, **options)

        def means(params, stopped):
            begun.append(1)
            if len(begun) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(params, stopped)

        return means

    return evaluator


@pytest.mark.parametrize("feed", ["device", once_more("host")])
def test_a_group_does_not_depend_on_where_calls_end_nor_on_stops_in_evaluations(feed, swept, tmp_path, monkeypatch):
    single = ["--config.call_seconds=1e-9", f"--config.data.feed={feed}"]
    (group, _), whole = groups(grid_of(*ALL[:4], *single, *RATES, seeds=3, at_once=5)), swept[1].path / "groups" / "0"
    stopped, task = RunDirectory(tmp_path / "stopped"), build_task(group.config)

    def train_group_until_stopped():
        with StopRequest() as stop:
            train_group(group, task, stopped, stop)

    for number, step in ((1, "at step 3 of 6"), (2, "at step 6 of 6"), (2, "after the last step, 6")):
        with monkeypatch.context() as patch:
            patch.setattr(engine, "Evaluator", signal_in_evaluation(number))
            with pytest.raises(Interrupted, match=f"stopped by SIGTERM {step}"):
                train_group_until_stopped()
    train_group_until_stopped()
    assert stopped.summary()["runs"] == RunDirectory(whole).summary()["runs"]
    assert stopped.metrics() == RunDirectory(whole).metrics()


def test_a_group_that_is_complete_is_not_trained_again(swept, tmp_path, monkeypatch):
    grid, directory, results = swept
    (directory.path / "sweep.json").rename(directory.path / "kept.json")
    monkeypatch.setattr(sweeping, "train_group", lambda *arguments: pytest.fail("trained again"))
    try:
        assert sweep(grid, directory, train_in_turn)["runs"] == results["runs"]
    finally:
        (directory.path / "kept.json").rename(directory.path / "sweep.json")


def test_results_are_means_and_deviations_over_seeds(swept):
    _, _, results = swept
    first, second = results["points"]
    assert (first["values"], first["seeds"]) == ({"optimizer.learning_rate": 0.01}, [0, 1, 2])
    for point, runs in ((first, results["runs"][:3]), (second, results["runs"][3:])):
        for split in ("train", "validation", "test"):
            losses = [run["final"][split]["loss"] for run in runs]
            assert point["final"][split]["loss"]["mean"] == pytest.approx(np.mean(losses))
            assert point["final"][split]["loss"]["std"] == pytest.approx(np.std(losses, ddof=1))
        assert point["best"]["accuracy"]["mean"] == pytest.approx(np.mean([run["best"]["accuracy"] for run in runs]))
    assert results["groups"][0]["runs"] == [0, 1, 2, 3, 4]
    assert jnp.isfinite(results["groups"][0]["steps_per_second"])


@pytest.mark.parametrize(
    "content",
    [b"", *map(once_more, [b"\xff\xfe", b"[]", b'{"runs": [3]}']), b'{"runs": 6, "points": []}'],
    ids=range(5),
)
def test_damaged_results_are_named_and_made_again(content, swept, tmp_path, caplog):
    grid, directory, results = swept
    copy = RunDirectory(shutil.copytree(directory.path, tmp_path / "copy"))
    damaged = [copy.path / "sweep.json", copy.path / "groups" / "1" / "summary.json"]
    for path in damaged:
        path.write_bytes(content)
    assert sweep(grid, copy, train_in_turn)["runs"] == results["runs"]
    assert copy.metrics() == directory.metrics()
    for path in damaged:
        assert str(path) in caplog.text


def test_a_checkpoint_of_another_group_is_set_aside(swept, tmp_path, monkeypatch, caplog):
    grid, _, results = swept
    group = groups(grid)[1]
    monkeypatch.setattr("rnnjax.training.sweeps.group.shutil.rmtree", lambda *arguments, **options: None)
    other = Group([run._replace(seed=7) for run in group.runs], group.traced)
    task = build_task(group.config)
    train_group(other, task, RunDirectory(tmp_path / "other"), StopRequest())
    own = RunDirectory(tmp_path / "own")
    train_group(group, task, own, StopRequest())
    (own.path / "summary.json").unlink()
    last = max(own.checkpoints.iterdir(), key=lambda path: int(path.name))
    last.rename(tmp_path / "away")
    shutil.copytree(tmp_path / "other" / "checkpoints" / last.name, last)
    train_group(group, task, own, StopRequest())
    assert f"the checkpoint of step {last.name} is damaged (it belongs to a run of another config)" in caplog.text
    assert own.summary()["runs"] == results["runs"][5:]
