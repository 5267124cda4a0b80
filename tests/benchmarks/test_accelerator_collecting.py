"""What an accelerator gave goes into the documents and the table of devices, with where it comes from."""

import json

import pytest

from benchmarks.accelerator.collecting import Targets, collect
from benchmarks.accelerator.fastest import fastest_rows, write_known_devices, write_table
from benchmarks.accelerator.records import Machine, Record, write_record
from benchmarks.processes import ROOT
from rnnjax import GRU, LSTM, CuDNN, Fused, Pallas, Scan, choose_method
from rnnjax.errors import ConfigError
from rnnjax.machine import device_name
from rnnjax.unrolling import known_devices
from rnnjax.unrolling.known_devices import Row, rows_in

STEPS = ["kernels_base", "kernels_trained", "mnist_rnn31", "memory"]
VERSIONS = {"python": "3.11", "jax": "1.2", "jaxlib": "1.2"}


def record(step, results, *, state="done", seconds=1.0, **machine):
    about = {"device": "Some GPU", "versions": VERSIONS, "commit": "abc", "sources": "digest", "rehearsal": False}
    return Record(step, state, seconds, f"python -m {step}", [], results, Machine(**{**about, **machine}))


def kernel(contender, both, cell="LSTM", H=256, dtype="bfloat16", projected=True):
    case = {"cell": cell, "H": H, "B": 16, "dtype": dtype, "projected": projected}
    return {"case": case, "contender": contender, "both_seconds": both and {"median": both}}


KERNELS = [
    kernel("pallas", 4e-3),
    kernel("scan", 8e-3),
    kernel("torch fp16", 1e-3),
    kernel("pallas", None, H=512),
    kernel("scan(4)", 9e-3, H=512),
    kernel("cudnn", 2e-3, dtype="float32"),
    kernel("fused", 2e-3, projected=False, cell="GRU"),
    kernel("fused", 2e-3, cell="own"),
]


@pytest.fixture
def targets(tmp_path):
    """Documents and a table as they are before anything was measured."""
    found = Targets(*(tmp_path / name for name in ("results.json", "results.md", "performance.md", "table.json")))
    found.results.write_text("{}")
    found.performance.write_text("before\n<!-- accelerator: begin -->\nNothing.\n<!-- accelerator: end -->\nafter\n")
    found.devices.write_text("[]")
    return found


@pytest.fixture
def merge(tmp_path, targets):
    """Collects records; returns what was said."""

    def collected(*records):
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        for each in records:
            write_record(folder, each)
        known_devices.rows_in.cache_clear()
        return list(collect(folder, STEPS, targets))

    return collected


def test_the_fastest_of_the_right_ones_goes_into_the_table_of_devices_with_where_it_comes_from(merge, targets):
    old = Row("Older GPU", "GRU", "float32", 64, 8, Fused(), "a command", "jax 1", "old")
    replaced = Row("Some GPU", "LSTM", "bfloat16", 256, 16, Scan(), "a command", "jax 1", "old")
    write_table(targets.devices, [old, replaced])
    merge(record("kernels_base", {"rows": KERNELS}))
    known_devices.rows_in.cache_clear()
    source = ("python -m kernels_base", "jax 1.2, jaxlib 1.2", "abc")
    assert rows_in(targets.devices) == (
        old,
        Row("Some GPU", "LSTM", "bfloat16", 256, 16, Pallas(), *source),
        Row("Some GPU", "LSTM", "bfloat16", 512, 16, Scan(unroll=4), *source),
        Row("Some GPU", "LSTM", "float32", 256, 16, CuDNN(), *source),
    )


def test_a_table_of_one_s_own_comes_first_and_is_what_later_steps_go_by(tmp_path, monkeypatch):
    rows = [kernel("scan(4)", 1e-3, dtype="float32"), kernel("fused", 2e-3, dtype="float32")]
    write_record(tmp_path, record("kernels_trained", {"rows": rows}, device=device_name()))
    write_known_devices(tmp_path)
    assert choose_method(LSTM(256), (5, 16, 8)) == Fused()
    monkeypatch.setenv(known_devices.OWN, str(tmp_path / "known_devices.json"))
    assert choose_method(LSTM(256), (5, 16, 8)) == Scan(unroll=4)
    assert choose_method(LSTM(257), (5, 16, 8)) == choose_method(GRU(256), (5, 16, 8)) == Fused()


def test_a_damaged_table_of_one_s_own_is_named_and_not_used(tmp_path, monkeypatch, caplog):
    path = tmp_path / "known.json"
    path.write_text('[{"device": "Some GPU"}]')
    monkeypatch.setenv(known_devices.OWN, str(path))
    assert choose_method(LSTM(256), (5, 16, 8)) == Fused()
    assert f"{path} does not have the expected content; none of its devices is known" in caplog.messages


def test_what_is_trained_counts_before_the_same_size_elsewhere(tmp_path):
    write_record(tmp_path, record("kernels_trained", {"rows": [kernel("scan", 1e-3)]}))
    write_record(tmp_path, record("kernels_base", {"rows": KERNELS}))
    assert fastest_rows(tmp_path)[0].method == Scan()


def test_kernels_are_a_table_between_the_markers_and_tables_of_other_steps_stay(merge, targets):
    table = {"titles": ["cell", "contender", "both"], "rows": [["LSTM", "scan", "4.00 ms"], ["LSTM", "it cannot"]]}
    merge(record("kernels_base", {"rows": KERNELS, "table": table}, state="timed out", seconds=190.0))
    merge(record("memory", {"rows": [], "table": {"titles": ["cell", "T"], "rows": [["LSTM", "64"]]}}))
    text = targets.performance.read_text()
    assert text.startswith("before\n<!-- accelerator: begin -->\n<!-- step kernels_base -->\n")
    assert text.endswith("\n<!-- accelerator: end -->\nafter\n")
    said = "`python -m kernels_base`: Some GPU, python 3.11, jax 1.2, jaxlib 1.2, rnnjax at abc; timed out after 190 s"
    assert said in text
    assert (
        "| cell | contender | both |\n| --- | --- | --- |\n| LSTM | scan | 4.00 ms |\n| LSTM | it cannot |  |" in text
    )
    assert "| LSTM | 64 |" in text
    before = text
    merge()
    assert targets.performance.read_text() == before


def result(seeds, commit="abc"):
    figures = {"training loss, last 250 steps": [0.1] * seeds}
    about = {"command": "python", "seconds": [1.0], "steps_per_second": [9.0], "versions": VERSIONS}
    device = {"platform": "gpu", "kind": "Some GPU", "count": 1}
    return about | {"figures": figures, "device": device, "git_commit": commit, "data": {"name": "m", "checksum": "f"}}


def test_a_published_figure_is_merged_unless_what_is_there_is_of_more_seeds(merge, targets):
    said = merge(record("mnist_rnn31", {"mnist_rnn31": result(2, commit=None)}))
    assert said[0] == "mnist_rnn31: merged"
    assert json.loads(targets.results.read_text())["mnist_rnn31"] == result(2)
    assert "| mnist_rnn31 | training loss, last 250 steps | 0.302 | 0.1000" in targets.results_table.read_text()
    said = merge(record("mnist_rnn31", {"mnist_rnn31": result(1)}))
    assert said[0] == "mnist_rnn31: left as it was, of 2 seeds and not 1"
    assert json.loads(targets.results.read_text())["mnist_rnn31"] == result(2)


def test_of_a_rehearsal_nothing_is_merged_nor_of_an_empty_folder(merge, targets):
    with pytest.raises(ConfigError, match="has no results"):
        merge()
    with pytest.raises(ConfigError, match="of a rehearsal"):
        merge(record("memory", {"rows": []}, rehearsal=True))
    assert targets.results.read_text() == "{}"


def test_the_page_that_is_shipped_has_its_markers(merge, targets):
    page = (ROOT / "docs" / "performance.md").read_text()
    assert page.count("<!-- accelerator: begin -->\n") == page.count("\n<!-- accelerator: end -->") == 1
    targets.performance.write_text("no markers")
    with pytest.raises(ConfigError, match="has no lines"):
        merge(record("memory", {"rows": []}))
