"""Training beside PyTorch: what a row says."""

from benchmarks import beside_torch
from benchmarks.report import cells


def test_words_per_second_are_those_of_the_median_call(monkeypatch):
    monkeypatch.setattr(
        beside_torch.timing, "interleave", lambda *_, **__: {"a": [2.0, 1.0, 4.0], "PyTorch": [4, 4, 4]}
    )
    options = beside_torch.parse(["ptb:small", "--steps", "20"])
    row = next(beside_torch.measure({}, options, count=400))
    assert (row.rate, row.seconds_per_step, row.ratio, row.runs) == (4000, 0.1, 2, 3)
    assert cells(beside_torch.columns("words"), row) == [
        *("a", "2.00 s", "1.50 s", "3.00 s", "100 ms"),
        *("4000", "2.00", "3"),
    ]
