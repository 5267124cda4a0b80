"""The benchmark beside other libraries, on sizes that take no time."""

import functools
import json

import jax
import numpy as np
import pytest
from fixtures.thorough import main_of

from benchmarks.classifier import Case, recurrent_layers
from benchmarks.peers import __main__ as peers
from benchmarks.peers.contenders import CONTENDERS, USES, missing_package

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL, SMALLEST = Case("LSTM", 2, 4, 3, 2, 5), Case("BasicRNN", 1, 2, 2, 2, 2)
INSTALLED = [name for name in CONTENDERS if missing_package(name, SMALL) is None]


@pytest.fixture(autouse=True)
def _chosen_soon(monkeypatch):
    """Has rnnjax measure for no longer than a step which number of devices is the fastest."""
    monkeypatch.setattr("rnnjax.training.step_seconds._SECONDS", 1e-6)


@functools.cache
def calls_of(name):
    return (CONTENDERS | USES)[name](SMALL)


@pytest.mark.parametrize("name", main_of(["plain", *INSTALLED], ("plain",)))
def test_every_contender_trains_and_predicts(name):
    calls = calls_of(name)
    losses = [float(np.mean(jax.tree.leaves(calls.train())[0])) for _ in range(200)]
    assert losses[-1] < 0.9 * losses[0]
    assert np.shape(calls.infer()) == (3, 10)


def test_operations_are_those_of_the_products():
    # Layer one: 4 steps, 3 sequences, (2 + 5) x 4 gates x 5 units; layer two: (5 + 5) x 4 x 5; two for each.
    assert SMALL.forward_flops == 4 * 3 * 2 * (7 * 20 + 10 * 20)
    assert Case("GRU", 1, 1, 1, 1, 1).forward_flops == 12


@pytest.mark.thorough
def test_a_run_prints_a_table_and_writes_rows(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ["--shapes", "4,3,2,5", "--cells", "BasicRNN", "--peers", "rnnjax", "linen", "--seconds", "0.1"]
    peers.main([*arguments, "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["case"]["cell"], row["what"]) for row in rows] == [("BasicRNN", "train"), ("BasicRNN", "infer")]
    for row in rows:
        assert set(row["seconds"]) == {"rnnjax", "linen"}
        assert row["ratio_to_jax"] == pytest.approx(row["seconds"]["linen"] / row["seconds"]["rnnjax"])
        assert row["roofline"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("BasicRNN") for line in lines) == 2
    assert lines[-2].startswith("train, against the fastest other JAX library: ")


def test_tuned_use_measures_the_methods_first(monkeypatch):
    tuned = []
    monkeypatch.setattr("rnnjax.tune", lambda cell, shape: tuned.append((cell, shape)))
    assert np.shape(USES["tuned"](SMALL).infer()) == (3, 10)
    assert tuned == [(recurrent_layers(SMALL), (4, 3, 2))]


def test_plain_use_is_one_device_and_one_step_a_call():
    calls = calls_of("plain")
    assert (calls.steps, calls.train_devices, calls.infer_devices) == (1, 1, 1)
    assert [row.devices for row in peers.measure(SMALLEST, ["rnnjax"], 0.0, "plain")] == [1, 1]


def test_only_plain_use_is_tuned(capsys):
    with pytest.raises(SystemExit):
        peers.main(["--tune"])
    assert "--tune needs --plain" in capsys.readouterr().err
