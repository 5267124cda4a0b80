import gzip
import json
import struct

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.report import cells
from benchmarks.whole_job import __main__ as whole_job
from benchmarks.whole_job import torch_job
from rnnjax.errors import DataError


def job(seconds, **fields):
    return whole_job.Job(**{"seconds": seconds, "step_seconds": 0.01, "validation": 0.9, "test": 0.8, **fields})


def test_ratios_are_taken_turn_by_turn():
    row = whole_job.row("warm", [job(10), job(20), job(30)], [job(40), job(40), job(90)])
    assert (row.seconds.median, row.ratio, row.test_accuracy) == (20, 3, 0.8)
    assert cells(whole_job._COLUMNS, row)[:2] == ["warm", "20.0 s"]


def test_both_jobs_are_given_the_same_sizes_and_files(monkeypatch, tmp_path):
    started = []

    def timed(command):
        started.append(command)
        return 1.0, "a line\n" + json.dumps({"step_seconds": 0.1, "validation": 0.5, "test": 0.4})

    monkeypatch.setattr(processes, "timed", timed)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">4i", 2051, 0, 28, 28)))
    options = whole_job.parse(["--variant", "rnn31", "--epochs", "2", "--data", str(tmp_path)])
    assert whole_job.torch_job(options) == whole_job.Job(1.0, 0.1, 0.5, 0.4)
    expected = {"kind": "BasicRNN", "hidden": 31, "batch_size": 128, "epochs": 2, "data": str(tmp_path / "mnist")}
    assert expected.items() <= json.loads(started[0][1]).items()
    assert processes.config_arguments(options) == ["--config.epochs=2", f"--config.data.path={tmp_path}"]


def test_a_folder_without_the_files_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(DataError, match="original files"):
        whole_job.main(["--data", str(tmp_path)])


def test_the_job_for_pytorch_trains(tmp_path, capsys):
    pytest.importorskip("torch", exc_type=ImportError)
    rng = np.random.default_rng(0)
    for part, count in (("train", 5040), ("t10k", 20)):
        images = struct.pack(">4i", 2051, count, 28, 28) + rng.bytes(count * 784)
        labels = struct.pack(">2i", 2049, count) + bytes(rng.integers(0, 10, count, np.uint8))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    torch_job.main("BasicRNN", 4, 1, 1e-3, batch_size=20, epochs=1, data=str(tmp_path))
    printed = json.loads(capsys.readouterr().out)
    assert printed["step_seconds"] > 0
    assert 0 <= printed["test"] <= 1
