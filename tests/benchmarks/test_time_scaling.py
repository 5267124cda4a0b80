"""The benchmark of ways to unroll over the length of the sequence, on sizes that take no time."""

import json

import jax
import numpy as np
import pytest

from benchmarks import time

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIZES = ["--lengths", "8", "--batches", "2", "--hidden", "4", "--seconds", "0.001"]


def test_every_way_that_serves_is_timed_and_written(capsys, tmp_path):
    path = tmp_path / "rows.json"
    assert time.main([*SIZES, "--cells", "LRU", "GRU", "--directions", "gradient", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    ways = {cell: [row["way"] for row in written["rows"] if row["cell"] == cell] for cell in ("LRU", "GRU")}
    assert set(ways["LRU"]) - {"memax"} == {"scan", "in order", "tree", "split", "prefix"}
    assert ways["GRU"] == ["scan", "fused", "newton"]
    for row in written["rows"]:
        assert row["share_of_floor"] == pytest.approx(row["floor_seconds"] / row["run_seconds"])
        assert row["floor_seconds"] == pytest.approx(4 * 8 * 2 * 4 * 4 / written["copy_bytes_per_second"])
        assert row["speed_over_scan"] > 0
    assert capsys.readouterr().out.count("gradient") == len(written["rows"])


@pytest.mark.parametrize("name", ["MinGRU", "ParaGRU"])
def test_the_ways_compute_the_same(name):
    size = time.Size(6, 2, 3)
    xs = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    results = {
        way: jax.jit(function)(params, xs)
        for way, (function, params) in time.ways(name, size).items()
        if way != "prefix"
    }
    assert len(results) >= 2
    for result in results.values():
        np.testing.assert_allclose(result, results["scan"], rtol=1e-4, atol=1e-5)


def test_sizes_that_are_too_large_are_left_out(capsys):
    assert time.main([*SIZES, "--cells", "MinGRU", "--largest", "63"]) == 0
    assert "MinGRU" not in capsys.readouterr().out
