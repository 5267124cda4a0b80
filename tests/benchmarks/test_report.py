"""What a benchmark has measured is printed and kept as it comes, also where it is stopped or has no figures."""

import argparse
import json
from typing import NamedTuple

from benchmarks.command import exit_code
from benchmarks.report import Column, show

COLUMNS = (Column("cell", left=True), Column("run", "seconds", "s", 8), Column("share", unit=".0%"))


class Row(NamedTuple):
    cell: str
    seconds: float | None = None
    share: float | None = None
    reason: str | None = None


def rows_until_stopped():
    yield Row("LSTM", 0.0123, 0.5)
    yield "a sentence"
    yield Row("GRU", reason="it cannot")
    yield Row("LRU", 1.0, float("nan"))
    raise KeyboardInterrupt


def test_a_run_that_is_stopped_keeps_and_sums_up_what_it_has(tmp_path, capsys):
    path = tmp_path / "rows.json"
    options = argparse.Namespace(json=path, batch=3)

    def main(arguments):
        show(options, COLUMNS, rows_until_stopped(), about="more", last=lambda rows: f"{len(rows)} rows", count=len)

    assert exit_code(main, []) == 130
    said = capsys.readouterr()
    assert said.out.splitlines()[2:] == [
        *("more", "", "cell       run  share"),
        *("LSTM   12.3 ms    50%", "a sentence", "GRU   it cannot", "LRU     1.00 s", "3 rows"),
    ]
    assert said.err == "rnnjax: stopped; what is above is all that was measured\n"
    kept = json.loads(path.read_text())
    assert (kept["settings"], kept["count"]) == ({"batch": 3}, 3)
    assert [row["cell"] for row in kept["rows"]] == ["LSTM", "GRU", "LRU"]
    assert kept["table"]["rows"] == [["LSTM", "12.3 ms", "50%"], ["GRU", "it cannot"], ["LRU", "1.00 s", ""]]
