"""Processes that train as one, on this machine: they find each other, agree with one process, stop together."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.thorough import once_more
from toytasks.config import get_config
from toytasks.runs import run_training

from rnnjax.commands import exit_code
from rnnjax.config import CellConfig, DataConfig, ParallelConfig
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError
from rnnjax.parallel import distributed
from rnnjax.parallel.distributed import Cluster, read_cluster
from rnnjax.train import main

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections

TRAINING = Path(__file__).parents[1] / "training"
CONFIG = ["--config", f"{TRAINING}/toytasks/config.py:long"]
FLAGS = ["--coordinator", "10.0.0.1:1234", "--process_id", "1", "--processes", "2"]
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}


def test_flags_name_the_processes_and_the_other_arguments_are_left():
    cluster, rest = read_cluster(["--config=x.py", *FLAGS, "--config.seed", "1", "--heartbeat_timeout=9"], {})
    assert cluster == Cluster("10.0.0.1:1234", 1, 2, start_timeout=60, heartbeat_timeout=9)
    assert rest == ["--config=x.py", "--config.seed", "1"]


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (SLURM, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),  # a batch script, outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a pod that is no part of an indexed job
    ],
    ids=["nothing", "Slurm", "one task", "Slurm's script", "Open MPI", "one rank", "a pod"],
)
def test_a_cluster_is_found_by_its_environment(environment, several):
    cluster, rest = read_cluster(["--workdir", "x"], environment)
    assert rest == ["--workdir", "x"]
    assert cluster == (Cluster(None, None, None, 60, 30) if several else None)


def test_an_indexed_kubernetes_job_is_found_where_its_package_is_installed(monkeypatch):
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name == "kubernetes" or None)
    assert read_cluster([], environment)[0] is not None
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "jax\[k8s\]"; or give --coordinator'):
        read_cluster([], environment)


def test_one_process_alone_may_be_asked_for_inside_a_cluster():
    assert read_cluster(["--processes", "1"], SLURM) == (None, [])


OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({**SLURM, "SLURM_NTASKS": "x"}, "SLURM_NTASKS"),
        ({**SLURM, "SLURM_NTASKS": ""}, "SLURM_NTASKS"),
        ({**SLURM, "SLURM_NTASKS": "²"}, "SLURM_NTASKS"),
        ({**SLURM, "SLURM_NTASKS": "9" * 5000}, "SLURM_NTASKS"),
        ({**SLURM, "SLURM_PROCID": "-1"}, "SLURM_PROCID"),
        ({**SLURM, "SLURM_LOCALID": "first"}, "SLURM_LOCALID"),
        ({**SLURM, "SLURM_JOB_ID": "7_1"}, "SLURM_JOB_ID"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "1.0"}, "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_numbers_of_a_clusters_environment_that_are_none_are_refused_by_name(environment, name):
    with pytest.raises(ConfigError, match=f"the environment's {name} must be a whole number, got .*--processes 1 to"):
        read_cluster([], environment)
    assert read_cluster(["--processes", "1"], environment) == (None, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FLAGS[:2], "belong together; add --process_id, --processes"),
        (FLAGS[:4], "belong together; add --processes"),
        ([*FLAGS, "--process_id", "2"], "--process_id must be from 0 to 1, got 2"),
        ([*FLAGS, "--process_id", "one"], "--process_id must be a whole number, got 'one'"),
        ([*FLAGS, "--processes", "0"], "--processes must be at least 1, got 0"),
        ([*FLAGS, "--coordinator", "here"], "--coordinator must be HOST:PORT, got 'here'"),
        ([*FLAGS, "--coordinator", "here:²"], "--coordinator must be HOST:PORT, got 'here:²'"),
        ([*FLAGS, "--coordinator", "here:99999"], "--coordinator must be HOST:PORT, got 'here:99999'"),
        ([*FLAGS, "--heartbeat_timeout", "0"], "--heartbeat_timeout must be at least 1 second, got 0"),
        (FLAGS, "several processes need --workdir"),
    ],
)
def test_bad_flags_end_with_2_and_one_sentence(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "give_up", lambda place, reason: None)  # nobody is there to be told
    assert exit_code(main, [*CONFIG, *arguments]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert message in sentence


def test_an_environment_that_names_no_coordinator_is_refused():
    with pytest.raises(ConfigError, match="Open MPI does not say where its first process is; give --coordinator"):
        read_cluster([], {"OMPI_COMM_WORLD_SIZE": "2"})


def _nothing(process):
    """What one process alone is given: nothing."""
    return {}


class Processes:
    """The processes of one run, each with one device, and what they said."""

    def __init__(
        self, count, directory, *arguments, environment=lambda process: {}, own=lambda process: (), flags=True
    ):
        port = free_port()
        common = {
            name: value
            for name, value in os.environ.items()
            if name != "JAX_NUM_CPU_DEVICES" and not name.startswith(("SLURM_", "OMPI_"))
        } | {
            "PYTHONPATH": os.pathsep.join([str(TRAINING), os.environ.get("PYTHONPATH", "")]),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COORDINATOR_PORT": str(port),
        }
        self.said, self._processes = [], []
        for process in range(count):
            place = ["--coordinator", f"127.0.0.1:{port}", "--process_id", str(process), "--processes", str(count)]
            command = [sys.executable, "-m", "rnnjax.train", *CONFIG, "--config.parallel.batch=all"]
            command += [*arguments, "--workdir", str(directory), *(place if flags else []), *own(process)]
            said = directory.with_name(f"{directory.name}.{len(list(directory.parent.iterdir()))}.{process}")
            self.said.append(said)
            with said.open("w") as file:
                self._processes.append(
                    subprocess.Popen(command, env=common | environment(process), stdout=file, stderr=file)
                )

    def send(self, number, process):
        self._processes[process].send_signal(number)

    def codes(self, seconds=120):
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(end - time.monotonic(), 0.1)) for process in self._processes]
        finally:
            self.end()

    def end(self):
        for process in self._processes:
            process.kill()
            process.wait()

    def sentences(self):
        return [[line for line in said.read_text().splitlines() if line.startswith("rnnjax: ")] for said in self.said]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def start():
    """Starts processes, and ends those that the test leaves."""
    started = []

    def run(*arguments, **options):
        started.append(Processes(*arguments, **options))
        return started[-1]

    yield run
    for processes in started:
        processes.end()


def rows(directory):
    path = directory / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for_epoch(directory, epoch, processes):
    end = time.monotonic() + 120
    while not any(row["split"] == "validation" and row["epoch"] >= epoch for row in rows(directory)):
        assert time.monotonic() < end, [said.read_text() for said in processes.said]
        time.sleep(0.05)


def wait_for_checkpoint(directory, processes):
    end = time.monotonic() + 60
    while not any(place.name.isdigit() for place in (directory / "checkpoints").iterdir()):
        assert time.monotonic() < end, [said.read_text() for said in processes.said]
        time.sleep(0.05)


def assert_same_metrics(found, expected, rtol):
    assert [(row["step"], row["split"]) for row in found] == [(row["step"], row["split"]) for row in expected]
    for one, other in zip(found, expected):
        assert {**one, "split": 0} == pytest.approx({**other, "split": 0}, rel=rtol)


def in_one_process(path, **fields):
    """The metrics of the same run in this process, on two devices."""
    return run_training(path, freeze(dataclasses.replace(get_config("long"), evaluate_every=2, **fields))).metrics


def assert_gone_is_said(processes, left, codes):
    for process in left:
        assert codes[process] == 1, processes.said[process].read_text()
        sentence = processes.sentences()[process][-1]
        assert "another process of this run is gone" in sentence
        assert "start all of them again to resume" in sentence


@pytest.mark.thorough
@pytest.mark.parametrize("count", [2, 4])
def test_processes_found_by_slurm_that_split_layers_and_batch_equal_one_and_stop_together(
    count, start, tmp_path, capfd
):
    def environment(process):
        return {**SLURM, "SLURM_NTASKS": str(count), "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}

    path, options = tmp_path / "run", ["--config.epochs=20", "--config.cell.layers=2", "--config.parallel.layers=2"]
    options += ["--config.evaluate_every=2"]
    processes = start(count, path, *options, "--heartbeat_timeout", "10", environment=environment, flags=False)
    wait_for_epoch(path, 2, processes)
    assert_in_use(path, options, capfd)  # a second command ends, and harms nothing of the first
    processes.send(signal.SIGTERM, count - 1)  # one of them is told, and all stop
    assert processes.codes(60) == [75] * count, [said.read_text() for said in processes.said]
    assert "stopped by SIGTERM at step" in processes.said[0].read_text()
    assert not (path / "summary.json").exists()
    assert not (path / "lock").exists()
    found = rows(path)
    cell = CellConfig(hidden_size=4, layers=2)
    expected = in_one_process(tmp_path / "one", epochs=20, parallel=ParallelConfig(batch="2"), cell=cell)
    assert_same_metrics(found, expected[: len(found)], 1e-5)


def assert_in_use(path, options, capfd):
    """Starts a second command on a directory in use, which ends with 1 and one sentence that names the first."""
    holder = json.loads((path / "lock").read_text())
    same = [*CONFIG, "--config.parallel.batch=all", *options, "--workdir", str(path)]
    capfd.readouterr()
    assert exit_code(main, same) == 1
    (sentence,) = capfd.readouterr().err.splitlines()
    assert f"{path} is in use by process {holder['pid']} on {holder['host']} since" in sentence


def open_mpi(process):
    return {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    }


@pytest.mark.thorough
def test_when_one_of_two_is_killed_the_other_ends_and_both_go_on_to_what_one_process_gives(start, tmp_path):
    path = tmp_path / "run"
    options = ["--config.epochs=8", "--config.data.feed=host", "--config.cell.dropout.input_rate=0.3"]
    options += ["--config.evaluate_every=2", "--config.parallel.map=pmap", "--heartbeat_timeout", "10"]

    processes = start(2, path, *options, environment=open_mpi, flags=False)
    wait_for_epoch(path, 2, processes)
    wait_for_checkpoint(path, processes)
    processes.send(signal.SIGKILL, 0)  # the one that the other looks to
    codes = processes.codes(60)
    assert codes[0] == -signal.SIGKILL
    assert_gone_is_said(processes, [1], codes)

    processes = start(2, path, *options)
    assert processes.codes() == [0, 0], [said.read_text() for said in processes.said]
    expected = in_one_process(
        tmp_path / "one",
        epochs=8,
        parallel=ParallelConfig(batch="2"),
        data=DataConfig(feed="host"),
        cell=CellConfig(hidden_size=4, dropout={"input_rate": 0.3}),
    )
    assert_same_metrics(rows(path), expected, 1e-6)
    first, second = (said.read_text() for said in processes.said)
    assert "2 processes with 2 devices" in first
    assert "resuming from the checkpoint" in first
    assert "steps/s" in first
    assert "step" not in second
    assert json.loads((path / "summary.json").read_text())["device"]["count"] == 2


@pytest.mark.parametrize(
    ("own", "environment", "sentence"),
    [
        once_more(
            lambda process: [f"--config.seed={process}"],
            _nothing,
            "config.seed is 0 in process 0 and 1 in process 1; start all processes with the same arguments",
        ),
        (
            _nothing,
            lambda process: {"SIGN_DATA": str(process)},
            "data.checksum is .* in process 0 and .* in process 1; give all processes the same data",
        ),
    ],
    ids=["seed", "data"],
)
def test_what_differs_between_two_processes_ends_both_with_2_and_its_name(own, environment, sentence, start, tmp_path):
    path = tmp_path / "run"
    processes = start(2, path, own=own, environment=environment)
    assert processes.codes(60) == [2, 2], [said.read_text() for said in processes.said]
    for sentences in processes.sentences():
        (said,) = sentences
        assert re.search(sentence, said)
    assert all(each.is_file() for each in tmp_path.iterdir())  # no directory is left
