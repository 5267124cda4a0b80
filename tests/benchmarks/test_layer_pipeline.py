"""The benchmark of layers over devices, on sizes that take no time."""

import json

import pytest

from benchmarks.layers import __main__ as layers
from benchmarks.layers import worker
from rnnjax.parallel.schedule import ChunkCost

SMALL = ["--shapes", "BasicRNN,2,4,2,6", "--devices", "2", "--chunks", "3", "--repeats", "1", "--simulate", "2", "64"]


@pytest.mark.thorough
def test_a_run_prints_tables_and_writes_rows(capsys, monkeypatch, tmp_path):
    # One test for all of it: contenders are processes of their own, which here need not compile well.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    path = tmp_path / "rows.json"
    layers.main([*SMALL, "--json", str(path)])
    written = json.loads(path.read_text())
    rows = {row["contender"]: row for row in written["rows"]}
    assert list(rows) == ["one core", "all cores", "batch", "layers 3"]
    assert all(row["seconds"] > 0 and row["build_seconds"] > 0 for row in rows.values())
    assert rows["one core"]["gain"] == 1
    front = rows["layers 3"]
    assert front["bound"] == pytest.approx(4 / 3)
    assert front["part"] == pytest.approx(front["gain"] / front["bound"])
    assert front["model_seconds"] > 0
    assert [row["devices"] for row in written["simulated"]] == [2, 64]
    assert all(0 < row["gain"] <= row["bound"] * 1.0001 for row in written["simulated"])
    printed = capsys.readouterr().out
    assert "of those tried 3, measured 3 (+0.0%)" in printed
    assert printed.count("BasicRNN 2 x 4") == 5


def test_two_sizes_of_chunks_give_both_parts_of_a_cost():
    cost = ChunkCost(0.25, 2.0)
    seconds = {chunk: 60 / chunk * cost.seconds(chunk) for chunk in (6, 30)}
    assert worker.solved(60, seconds) == pytest.approx(cost)


@pytest.mark.usefixtures("compiled_quickly")
def test_a_cost_is_measured():
    found = worker.measured_cost(worker.Shape("BasicRNN", 4, 2, 1, 5), 1)
    assert found.fixed >= 0
    assert found.seconds(10) > 0
