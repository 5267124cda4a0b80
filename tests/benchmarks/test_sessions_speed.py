"""The benchmark of sessions, on sizes that take no time."""

import json

import pytest

from benchmarks import sessions

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_every_way_is_timed_where_all_and_where_one_of_the_sessions_step(capsys, tmp_path):
    path = tmp_path / "rows.json"
    sessions.main(["--slots", "3", "--hidden", "2", "--input", "2", "--repeats", "1", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["stepping"], row["way"]) for row in rows] == [
        (stepping, way) for stepping in (1, 3) for way in ("loop", "step", "step_batch")
    ]
    assert all(row["seconds"] > 0 for row in rows)
    assert "sessions/s" in capsys.readouterr().out
