"""The benchmark of ways to unroll over the length of the sequence, on sizes that take no time."""

import json

import jax
import numpy as np
import pytest

from benchmarks.time import __main__ as time
from benchmarks.time.model import Costs, extra_work, simulate
from rnnjax.unrolling.native.compiler import compiler

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

SIZES = ["--lengths", "8", "--batches", "2", "--hidden", "4", "--seconds", "0.001"]


def test_every_way_that_serves_is_timed_and_written(capsys, tmp_path):
    path = tmp_path / "rows.json"
    time.main([*SIZES, "--cells", "LRU", "GRU", "--directions", "gradient", "--json", str(path)])
    written = json.loads(path.read_text())
    ways = {cell: [row["way"] for row in written["rows"] if row["cell"] == cell] for cell in ("LRU", "GRU")}
    native = {"native"} if compiler() else set()
    assert set(ways["LRU"]) - {"memax"} == {"scan", "in order", "tree", "split", "prefix"} | native
    assert set(ways["GRU"]) == {"scan", "fused", "newton"} | native
    for row in written["rows"]:
        assert row["share_of_floor"] == pytest.approx(row["floor_seconds"] / row["run_seconds"])
        assert row["floor_seconds"] == pytest.approx(4 * 8 * 2 * 4 * 4 / written["copy_bytes_per_second"])
        assert row["speed_over_scan"] > 0
    assert [row["devices"] for row in written["simulated"]] == [2, 16, 128, 1024]
    out = capsys.readouterr().out
    assert out.count("gradient") == len(written["rows"]) + 4
    assert "simulated, not measured: 1e+08 steps" in out


def test_the_model_of_many_devices_is_its_formula():
    costs = Costs(step_seconds=1e-6, extra=0.5, collectives=2, sent_bytes=2000, latency=1e-3, bandwidth=1e6)
    result = simulate(costs, 4, 10**6)
    assert result.seconds == pytest.approx(1 * 1.5 / 4 + 2 * (2e-3 + 4e-3))
    assert result.gain == pytest.approx(1 / result.seconds)
    assert result.share == pytest.approx(result.gain / 4)
    assert simulate(costs, 1, 10**6).gain == 1
    assert extra_work(alone_seconds=2.0, split_seconds=1.5, devices=2) == pytest.approx(0.5)
    assert extra_work(alone_seconds=2.0, split_seconds=0.9, devices=2) == 0


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
    time.main([*SIZES, "--cells", "MinGRU", "--largest", "63"])
    assert "MinGRU" not in capsys.readouterr().out
