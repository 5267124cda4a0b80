"""The benchmark of memory over the length of the sequence, on sizes that take no time."""

import json

import pytest

from benchmarks import memory

SIZES = ["--cells", "BasicRNN", "--lengths", "1024", "64", "--batch", "2", "--input", "3", "--hidden", "8"]


def test_remat_holds_less_than_scan_which_grows_like_the_length(capsys, tmp_path):
    path = tmp_path / "rows.json"
    assert memory.main([*SIZES, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["T"], row["method"]) for row in rows] == [(t, m) for t in (64, 1024) for m in memory.methods(t)]
    long = {row["method"]: row for row in rows if row["T"] == 1024}
    assert long["scan, remat"]["temp_bytes"] < long["scan"]["temp_bytes"]
    assert long["scan"]["growth"] > 0.9
    assert all(row["run_seconds"] > 0 for row in rows)
    assert sum(line.startswith("BasicRNN") for line in capsys.readouterr().out.splitlines()) == 6


def test_what_needs_too_much_memory_is_not_run(capsys):
    assert memory.main([*SIZES, "--run-limit", "1"]) == 0
    assert capsys.readouterr().out.count("not run") == 6


@pytest.mark.parametrize("arguments", [["--lengths", "0"], ["--cells", "Elman"], ["--json", "/nowhere/rows.json"]])
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        memory.main(arguments)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
