"""Sweeps on Ray, for real: a cluster of one CPU on this machine."""

import logging
import os
import signal
from pathlib import Path

import pytest

from rnnjax.errors import TrainingError
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.interruption import Interrupted
from rnnjax.training.sweeps import sweep as sweeping
from rnnjax.training.sweeps.grid import read_grid
from rnnjax.training.sweeps.sweep import sweep, train_in_turn

ray = pytest.importorskip("ray", reason="Ray is an optional package")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = str(REPOSITORY / "configs" / "hihello.py") + ":basic"
SMALL = ["--config", CONFIG, "--config.epochs=4", "--config.evaluate_every=2", "--config.cell.hidden_size=4,6"]


@pytest.fixture(scope="module")
def cluster():
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {"env_vars": {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(num_cpus=1, include_dashboard=False, runtime_env=environment, **quiet)
    yield
    ray.shutdown()


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_close(value, other[name])
        else:
            assert value == (pytest.approx(other[name], rel=1e-4) if type(value) is float else other[name])


def test_groups_on_ray_are_those_trained_here(cluster, tmp_path):
    from rnnjax.training.sweeps.ray_groups import ray_trainer

    grid, _, _ = read_grid(SMALL, 2, None)
    here, there = RunDirectory(tmp_path / "here"), RunDirectory(tmp_path / "there")
    expected, found = sweep(grid, here, train_in_turn), sweep(grid, there, ray_trainer())
    assert len(found["groups"]) == 2
    assert len(found["runs"]) == len(expected["runs"]) == 4
    for run, other in zip(found["runs"], expected["runs"]):
        assert_close(run, other)
    assert [row["run"] for row in there.metrics()] == [row["run"] for row in here.metrics()]


def test_a_signal_keeps_what_is_complete_and_the_rest_is_trained_later(cluster, tmp_path, monkeypatch):
    from rnnjax.training.sweeps import ray_groups

    real, directory, grid = ray_groups.write_group, RunDirectory(tmp_path / "sweep"), read_grid(SMALL, 1, None)[0]

    def keep(*arguments):
        real(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ray_groups, "write_group", keep)
        with pytest.raises(Interrupted, match="stopped by SIGTERM, 1 of 2 tasks not complete"):
            sweep(grid, directory, ray_groups.train_on_ray)
    assert [run["run"] for run in sweeping.read_results(directory)["runs"]] == [0]
    assert [run["run"] for run in sweep(grid, directory, train_in_turn)["runs"]] == [0, 1]


def test_a_task_that_fails_is_named(cluster, tmp_path, monkeypatch):
    from rnnjax.training.sweeps import ray_groups

    def fail(group):
        raise MemoryError("no room for it")

    monkeypatch.setattr(ray_groups, "train_alone", fail)
    with pytest.raises(TrainingError, match=r"a Ray task failed \(.*no room for it\); run again to resume"):
        sweep(read_grid(SMALL, 1, None)[0], RunDirectory(tmp_path / "sweep"), ray_groups.train_on_ray)
