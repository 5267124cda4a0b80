"""The benchmark of static unrolling against scan, on sizes that take no time."""

import itertools
import json

import pytest

from benchmarks import unroll

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

SIZES = ["--lengths", "5", "2", "--batch", "2", "--input", "3", "--hidden", "4"]
SMALL = [*SIZES, "--cells", "BasicRNN", "--repeats", "1"]


def test_a_run_prints_a_table_and_writes_rows_and_a_plot(capsys, tmp_path):
    # One test for all of it: a run takes seconds to compile, and tests may be spread over processes.
    unroll.main([*SMALL, "--json", f"{tmp_path}/rows.json", "--plot", f"{tmp_path}/plot.png"])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    found = [(row["T"], row["direction"], row["method"]) for row in rows]
    assert found == list(itertools.product([2, 5], unroll.DIRECTIONS, unroll.METHODS))
    for row in rows:
        assert all(row["build"][f"{stage}_seconds"] > 0 for stage in ("trace", "lower", "compile"))
        assert row["memory_bytes"] == sum(row["build"]["memory"].values()) > 0
        assert row["step_seconds"] == pytest.approx(row["run_seconds"]["median"] / row["T"])
        assert row["method"] != "scan" or row["ratio_to_scan"] == 1
    table = capsys.readouterr().out.splitlines()[5:]
    assert [line.split()[3] for line in table[1:]] == list(unroll.METHODS) * 4
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_static_is_left_out_where_it_would_take_too_long_to_build(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = [*SMALL, "--lengths", "2", "--compile-limit", "0", "--json", str(path), "--plot", f"{tmp_path}/p.svg"]
    unroll.main(arguments)
    assert capsys.readouterr().out.count("skipped: to build it would take ~") == 2
    static = [row for row in json.loads(path.read_text())["rows"] if row["method"] == "static"]
    assert all(row["reason"] and row["run_seconds"] is None for row in static)
