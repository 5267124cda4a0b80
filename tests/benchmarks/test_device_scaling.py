"""The benchmark of a batch split over devices, on sizes that take no time."""

import json

import numpy as np
import pytest

from benchmarks import devices
from benchmarks.classifier import Case
from benchmarks.command import exit_code

SIZES = ["--cell", "BasicRNN", "--shape", "2,5,3,4", "--seconds", "0.01"]


@pytest.mark.thorough
def test_every_way_of_mapping_takes_the_same_step():
    case = Case("BasicRNN", 1, 2, 5, 3, 4)
    ways = [devices.Contender("strong", map, count, 5) for map, count in [("jit", 1), ("shard_map", 2), ("pmap", 2)]]
    calls = [devices.training_steps(case, way, 2) for way in ways]
    for _ in range(2):  # the second call from the state after the first
        first, *others = [np.asarray(call()) for call in calls]
        assert first[1] < first[0]
        np.testing.assert_allclose(others, [first, first], rtol=1e-5)


def test_every_way_of_mapping_is_timed_on_one_device_and_on_two(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "training_steps", lambda case, contender, steps: lambda: np.ones(case.B).sum())
    rows_path = tmp_path / "rows.json"
    assert exit_code(devices.main, [*SIZES, "--json", str(rows_path)]) == 0
    rows = json.loads(rows_path.read_text())["rows"]
    ways = [("jit", 1), ("shard_map", 1), ("pmap", 1), ("shard_map", 2), ("pmap", 2)]
    contenders = [row["contender"] for row in rows]
    assert [(each["map"], each["devices"]) for each in contenders] == ways * 2
    assert [each["batch"] for each in contenders] == [5] * 5 + [5, 5, 5, 10, 10]
    assert all(row["seconds"]["low"] > 0 and row["turns"] >= 2 for row in rows)
    assert [row["gain"] for row in rows[::5]] == [1, 1]
    with_cost = {(row["contender"]["map"], row["contender"]["devices"]) for row in rows if row["cost"]}
    assert with_cost <= {("shard_map", 1), ("pmap", 1)}
    assert capsys.readouterr().out.count("shard_map") == 4


def test_a_weak_row_that_takes_as_long_has_gained_its_devices():
    contender = devices.Contender("weak", "shard_map", 4, 40)
    assert devices.row(contender, [1.0, 2.0], [1.0, 2.0], 10).gain == 4


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_devices_double_up_to_all(most, counts):
    assert devices.device_counts(most) == counts


def test_more_devices_than_there_are_is_refused_in_one_sentence(capsys):
    assert exit_code(devices.main, [*SIZES, "--devices", "3"]) == 2
    assert "--devices 3 is more than the 2 devices there are" in capsys.readouterr().err
