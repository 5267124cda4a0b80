import dataclasses
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from fixtures.thorough import main_of, once_more
from toytasks.runs import assert_identical, assert_same_run, last_checkpoint, run_training, scalars, sign_config
from toytasks.sign import Config

import rnnjax
from rnnjax.config import CellConfig, DataConfig, OptimizerConfig, ParallelConfig
from rnnjax.config_group import to_dict
from rnnjax.errors import CheckpointError, DataError
from rnnjax.tasks import build_task
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.evaluation import evaluate_run
from rnnjax.training.interruption import Interrupted
from rnnjax.training.loop import train
from rnnjax.training.record import Record

pytestmark = pytest.mark.usefixtures("programs_of_alike_runs")


def config_of(**fields) -> Config:
    """A config in which all that could get lost on the way matters: dropout, schedule, moments, half epochs."""
    fields = {
        "epochs": 3,
        "steps_per_call": 3,
        "call_seconds": 0,
        "log_every": 2,
        "cell": CellConfig(kind="GRU", hidden_size=4, dropout={"input_rate": 0.3}),
        "optimizer": OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=3),
        **fields,
    }
    return sign_config(**fields)


CALLS = 9  # 8 steps an epoch in calls of 3, 3 and 2, for 3 epochs


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_training(tmp_path_factory.mktemp("whole"), config_of())


@pytest.fixture(autouse=True)
def _signals_that_are_not_taken_fail():
    """A signal that the run does not take ends the test, not the test run."""

    def refuse(number, frame):
        raise AssertionError(f"{signal.Signals(number).name} was not taken")

    before = {number: signal.signal(number, refuse) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(monkeypatch, at: int, action) -> None:
    """Has `action(record)` done just before what is written down for the `at`-th time."""
    real, writes = Record.write, []

    def write(self, finished):
        writes.append(finished.step)
        if len(writes) == at:
            action(self)
        return real(self, finished)

    monkeypatch.setattr(Record, "write", write)


@pytest.mark.parametrize(
    ("at", "number"), [(1, signal.SIGTERM), once_more(2, signal.SIGINT), once_more(3, signal.SIGTERM)]
)
def test_a_run_stopped_by_a_signal_and_resumed_equals_one_that_was_not(
    at, number, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt(patch, at, lambda record: signal.raise_signal(number))
        with pytest.raises(Interrupted, match=rf"{number.name} at step \d+ of 24, after a checkpoint"):
            run_training(tmp_path, config_of())
    assert not RunDirectory(tmp_path).summary()
    step, _ = last_checkpoint(tmp_path, config_of())
    assert 0 < step < 24
    rows = RunDirectory(tmp_path).metrics()
    assert rows == uninterrupted.metrics[: len(rows)]
    assert step - 2 < rows[-1]["step"] <= step
    assert_same_run(run_training(tmp_path, config_of()), uninterrupted)


OWN_OPTIMIZER = """
import optax

def slowed(rate, *, momentum):
    return optax.chain(optax.trace(momentum), optax.ema(0.5), optax.scale_by_learning_rate(rate))
"""


def test_a_run_by_an_optimiser_of_ones_own_is_resumed_bit_by_bit(tmp_path, monkeypatch):
    (tmp_path / "mine_slowed.py").write_text(OWN_OPTIMIZER)
    monkeypatch.syspath_prepend(tmp_path)
    own = OptimizerConfig(name="mine_slowed:slowed", momentum=0.9, schedule="cosine", clip_norm=1.0)
    config = config_of(epochs=1, optimizer=own)
    whole = run_training(tmp_path / "whole", config)
    assert_stopped_and_resumed(tmp_path / "stopped", config, whole, monkeypatch)
    del sys.modules["mine_slowed"]


def test_a_run_stopped_between_the_steps_of_an_update_is_resumed_bit_by_bit(tmp_path, monkeypatch):
    config = config_of(epochs=1, optimizer=OptimizerConfig(learning_rate=1e-2, clip_norm=1.0, accumulate=4))
    whole = run_training(tmp_path / "whole", config)
    assert [row["step"] for row in whole.metrics if row.get("update_norm", 0) > 0] == [4, 8]
    assert_stopped_and_resumed(tmp_path / "stopped", config, whole, monkeypatch)


def test_a_run_that_averages_its_parameters_is_evaluated_kept_and_resumed_by_the_average(tmp_path, monkeypatch):
    optimizer = {"learning_rate": 1e-2, "clip_norm": 1.0}
    plain = run_training(tmp_path / "plain", config_of(epochs=1, optimizer=OptimizerConfig(**optimizer)))
    config = config_of(epochs=1, optimizer=OptimizerConfig(**optimizer, ema_decay=0.9))
    whole = run_training(tmp_path / "whole", config)
    assert_identical(whole.state.params, plain.state.params)  # training itself is the same
    kept = rnnjax.load_run(tmp_path / "whole", "last", trust=True).params
    assert_identical(kept, whole.state.opt_state.average)
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(plain.state.params))]
    assert max(moved) > 1e-3
    found = evaluate_run(str(tmp_path / "whole"), "test", "last", None, trusted=True)
    assert found["loss"] == pytest.approx(whole.summary["final"]["test"]["loss"], rel=1e-5)
    assert found["loss"] != pytest.approx(plain.summary["final"]["test"]["loss"], rel=1e-5)
    assert_stopped_and_resumed(tmp_path / "stopped", config, whole, monkeypatch)


def assert_stopped_and_resumed(path, config, whole, monkeypatch):
    """Asserts that a run which a signal stops within its first epoch, and that is resumed, is as one that was not."""
    with monkeypatch.context() as patch:
        interrupt(patch, 1, lambda record: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted, match=r"at step [1-7] of"):
            run_training(path, config)
    assert_same_run(run_training(path, config), whole)


@pytest.mark.thorough
def test_a_run_stopped_again_and_again_equals_one_that_was_not(uninterrupted, tmp_path, monkeypatch):
    stops = 0
    for _ in range(CALLS):
        with monkeypatch.context() as patch:
            interrupt(patch, 1, lambda record: signal.raise_signal(signal.SIGTERM))
            try:
                run_training(tmp_path, config_of())
                break
            except Interrupted:
                stops += 1
    assert stops >= 3
    assert_same_run(run_training(tmp_path, config_of()), uninterrupted)


class PowerCut(Exception):
    """The process is gone, and with it all that was not yet on disk."""


@pytest.mark.parametrize("at", [once_more(1), 5, once_more(9)])
def test_a_run_cut_off_and_resumed_equals_one_that_was_not_for_tensorboard_too(
    at, uninterrupted, tmp_path, monkeypatch
):
    def cut(record):
        record.checkpoints.wait()
        raise PowerCut

    with monkeypatch.context() as patch:
        interrupt(patch, at, cut)
        with pytest.raises(PowerCut):
            run_training(tmp_path, config_of())
    assert_events_are_metrics(RunDirectory(tmp_path))
    resumed = run_training(tmp_path, config_of())
    assert_events_are_metrics(resumed.directory)
    assert_same_run(resumed, uninterrupted)


def assert_events_are_metrics(directory):
    rows = directory.metrics()
    expected = [
        (f"{row['split']}/{name}", row["step"], np.float32(value))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "epoch", "split")
    ]
    assert sorted(scalars(directory.tensorboard)) == sorted(expected)


def test_metrics_written_after_the_last_checkpoint_are_not_there_twice(uninterrupted, tmp_path, monkeypatch):
    # The second epoch's first call is written down, its checkpoint never is.
    with monkeypatch.context() as patch:
        interrupt(patch, 6, lambda record: (_ for _ in ()).throw(PowerCut))
        with pytest.raises(PowerCut):
            run_training(tmp_path, config_of())
    assert max(row["step"] for row in RunDirectory(tmp_path).metrics()) > last_checkpoint(tmp_path, config_of())[0]
    resumed = run_training(tmp_path, config_of())
    keys = [(row["step"], row["split"]) for row in resumed.metrics]
    assert len(keys) == len(set(keys))
    assert_same_run(resumed, uninterrupted)


def test_a_line_that_was_cut_off_is_dropped(uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 5, lambda record: (_ for _ in ()).throw(PowerCut))
        with pytest.raises(PowerCut):
            run_training(tmp_path, config_of())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "epoch": 2, "spl')
    assert_same_run(run_training(tmp_path, config_of()), uninterrupted)


WAYS_OF_RUNNING = {
    "host feed to two devices": {"data": DataConfig(feed="host"), "parallel": ParallelConfig(batch="2")},
    "whole epochs on two devices by pmap, a batch filled up": {
        "steps_per_call": 0,
        "parallel": ParallelConfig(batch="2", map="pmap"),
        "batch_size": 7,
    },
}


@pytest.mark.parametrize("way", main_of(WAYS_OF_RUNNING, ["host feed to two devices"]))
def test_resuming_is_exact_for_every_way_of_running_wherever_calls_end(way, tmp_path, monkeypatch):
    fields = WAYS_OF_RUNNING[way]
    whole = run_training(tmp_path / "whole", config_of(epochs=2, **fields))
    config = config_of(**{"epochs": 2, "call_seconds": 1e-9, **fields})
    with monkeypatch.context() as patch:
        interrupt(patch, 1, lambda record: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            run_training(tmp_path / "stopped", config)
    assert_same_run(run_training(tmp_path / "stopped", config), whole)


def damaged_copy(run, path, steps):
    """A copy of a finished run that looks as if it had ended before its summary, with damaged checkpoints."""
    shutil.copytree(run.directory.path, path)
    (path / "summary.json").unlink()
    for step in steps:
        for file in (path / "checkpoints" / str(step) / "params").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(uninterrupted, tmp_path, caplog):
    path = damaged_copy(uninterrupted, tmp_path / "run", [24])
    with caplog.at_level("INFO"):
        resumed = run_training(path, config_of())
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "checkpoint of step 24 is damaged" in text
    assert "resuming from the checkpoint of step 16" in text
    assert resumed.metrics == uninterrupted.metrics
    # After it the last checkpoint is whole again.
    step, state = last_checkpoint(path, config_of())
    assert step == 24
    assert_identical(state, uninterrupted.state)


def test_where_every_checkpoint_is_damaged_the_run_is_refused_and_left_as_it_is(uninterrupted, tmp_path):
    path = damaged_copy(uninterrupted, tmp_path / "run", [8, 16, 24])
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        run_training(path, config_of())
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_run_of_which_only_the_summary_is_missing_gets_the_same_one(uninterrupted, tmp_path):
    path = damaged_copy(uninterrupted, tmp_path / "run", [])
    resumed = run_training(path, config_of())
    assert_same_run(resumed, uninterrupted)
    for name in ("final", "best", "data", "device"):
        assert resumed.summary[name] == uninterrupted.summary[name]


def test_a_line_of_the_checkpoint_that_was_lost_with_the_end_of_the_file_is_named(uninterrupted, tmp_path, caplog):
    path = damaged_copy(uninterrupted, tmp_path / "run", [])
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    ended = next(i for i, line in enumerate(lines) if '"step": 24' in line and '"validation"' in line)
    (path / "metrics.jsonl").write_text("".join(lines[:ended]))
    assert '"step": 24' in lines[ended - 1]
    run_training(path, config_of())
    said = f"{path / 'metrics.jsonl'} has no validation line of step 24, where the run resumes; it stays missing"
    assert said in caplog.text


@pytest.mark.thorough
def test_the_task_may_be_built_anew_for_every_part_of_a_run(uninterrupted, tmp_path):
    config = config_of()
    directory = RunDirectory(tmp_path)
    directory.claim(to_dict(config))
    assert train(build_task(config), config, directory)["final"] == uninterrupted.summary["final"]


def test_a_run_is_not_gone_on_with_on_other_data(uninterrupted, tmp_path):
    path = damaged_copy(uninterrupted, tmp_path / "run", [])
    task = build_task(config_of())
    other = task.with_data(dataclasses.replace(task.data, checksum="other"))
    with pytest.raises(DataError, match=r"the data differs from what the run of .* cannot resume from step 24"):
        run_training(path, config_of(), other)


def test_a_checkpoint_of_another_seed_is_set_aside_and_the_run_ends_as_it_would(uninterrupted, tmp_path, caplog):
    other = run_training(tmp_path / "other", config_of(seed=1))
    path = damaged_copy(uninterrupted, tmp_path / "run", [])
    shutil.rmtree(path / "checkpoints" / "24")
    shutil.copytree(other.directory.checkpoints / "24", path / "checkpoints" / "24")
    assert_same_run(run_training(path, config_of()), uninterrupted)
    assert "the checkpoint of step 24 is damaged (it belongs to a run of another config)" in caplog.text
    assert (path / "checkpoints" / "24.set-aside").is_dir()


def test_directories_in_place_of_files_do_not_block(uninterrupted, tmp_path):
    path, names = damaged_copy(uninterrupted, tmp_path / "run", []), ("summary.json", "devices.json", "metrics.jsonl")
    for name in names:
        (path / name).unlink(missing_ok=True)
        (path / name).mkdir()
        (path / f"{name}.part").mkdir()
    run = run_training(path, config_of())
    assert all((path / name).is_file() for name in names)
    assert run.summary["final"]["test"] == uninterrupted.summary["final"]["test"]
