"""The benchmark of layers over devices, on sizes that take no time, and its simulation against closed forms."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.layers import __main__ as layers
from benchmarks.layers import worker
from benchmarks.layers.simulation import Schedule, bound, simulate
from rnnjax.parallel.schedule import ChunkCost

SECONDS = st.floats(1e-6, 1e3)
COUNTS = st.integers(1, 40)

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
    assert written["chunks"][0]["measured"] == 3
    assert [row["devices"] for row in written["simulated"]] == [2, 64]
    assert all(0 < row["gain"] <= row["bound"] * 1.0001 for row in written["simulated"])
    printed = capsys.readouterr().out
    assert "of those tried 3, measured 3 (+0.0%)" in printed
    assert printed.count("BasicRNN 2 x 4") == 5


@pytest.mark.parametrize("shape", ["LSTM,4,256,32", "Elman,4,256,32,300", "LSTM,0,256,32,300"])
def test_shapes_that_cannot_be_used_are_refused(shape, capsys):
    with pytest.raises(SystemExit) as refused:
        layers.main(["--shapes", shape])
    assert refused.value.code == 2
    assert "--shapes: expected " in capsys.readouterr().err


@given(COUNTS, COUNTS, SECONDS, SECONDS)
def test_equal_devices_take_as_many_ticks_as_the_closed_form_says(chunks, devices, cost, transfer):
    found = simulate(Schedule(chunks, (cost,) * devices, transfer))
    tick = cost + (transfer if devices > 1 else 0)
    assert found.seconds == pytest.approx((chunks + devices - 1) * tick)
    assert found.speedup == pytest.approx(bound(chunks, devices) * cost / tick)
    assert found.busy == pytest.approx(found.speedup / devices)


@given(COUNTS, st.lists(SECONDS, min_size=1, max_size=6))
def test_a_tick_waits_for_the_slowest_device_at_work(chunks, costs):
    found = simulate(Schedule(chunks, tuple(costs)))
    assert chunks * max(costs) <= found.seconds * (1 + 1e-9)
    assert found.seconds <= (chunks + len(costs) - 1) * max(costs) * (1 + 1e-9)


def test_unequal_devices_by_hand():
    # Ticks: device 0; devices 0 and 1; device 1.
    assert simulate(Schedule(2, (1.0, 3.0), 0.5)).seconds == 1.5 + 3.5 + 3.5


def test_two_sizes_of_chunks_give_both_parts_of_a_cost():
    cost = ChunkCost(0.25, 2.0)
    seconds = {chunk: 60 / chunk * cost.seconds(chunk) for chunk in (6, 30)}
    assert worker.solved(60, seconds) == pytest.approx(cost)


@pytest.mark.usefixtures("compiled_quickly")
def test_a_cost_is_measured():
    found = ChunkCost(*worker.measured_cost(worker.Shape("BasicRNN", 4, 2, 1, 5), 1))
    assert found.fixed >= 0
    assert found.seconds(10) > 0


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(0, (1.0,)), "chunks must be at least 1, got 0"),
        (Schedule(1, ()), "the number of devices must be at least 1, got 0"),
        (Schedule(1, (1.0,), -2.0), "seconds must not be negative, got -2.0"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        simulate(schedule)
