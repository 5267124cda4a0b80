"""The benchmark of memory over the length of the sequence, on sizes that take no time."""

import json

import pytest

from benchmarks import memory

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

SIZES = ["--cells", "BasicRNN", "--batch", "2", "--input", "3", "--hidden", "8"]


def rows_of(tmp_path, *arguments):
    path = tmp_path / "rows.json"
    memory.main([*SIZES, *arguments, "--json", str(path)])
    return json.loads(path.read_text())["rows"]


def test_remat_grows_like_the_square_root_of_the_length(capsys, tmp_path):
    rows = rows_of(tmp_path, "--reads", "last", "--lengths", "1024", "65536", "--run-limit", "1")
    growth = {row["method"]: row["growth"] for row in rows if row["T"] == 65536}
    assert 0.35 < growth["scan, remat"] < 0.65
    assert growth["scan"] > 0.9
    assert growth["fused"] > 0.9
    assert capsys.readouterr().out.count("not run") == len(rows) == 6


def test_outputs_that_are_read_grow_like_the_length_whatever_the_method(capsys, tmp_path):
    rows = rows_of(tmp_path, "--reads", "every", "--lengths", "1024", "64")
    assert [(row["T"], row["method"]) for row in rows] == [(t, m) for t in (64, 1024) for m in memory.methods(t)]
    long = {row["method"]: row for row in rows if row["T"] == 1024}
    assert long["scan, remat"]["temp_bytes"] < long["scan"]["temp_bytes"]
    assert all(row["temp_bytes"] > 1024 * 2 * 8 * 4 for row in long.values())
    assert all(row["run_seconds"] > 0 for row in rows)
    assert sum(line.startswith("BasicRNN") for line in capsys.readouterr().out.splitlines()) == 6


def test_the_last_and_every_output_are_read_unless_told():
    assert memory.parse([]).reads == ["last", "every"]
