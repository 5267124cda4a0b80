"""The benchmark of language models: what a row says, and what is refused."""

import sys

import pytest

from benchmarks import beside_torch, language_model
from benchmarks.command import exit_code
from benchmarks.pytorch import torch_module
from benchmarks.report import cells


def test_words_per_second_are_those_of_the_median_call(monkeypatch):
    monkeypatch.setattr(
        beside_torch.timing, "interleave", lambda *_, **__: {"a": [2.0, 1.0, 4.0], "PyTorch": [4, 4, 4]}
    )
    options = language_model.parse([])
    row = next(beside_torch.measure({}, options, count=400))
    assert (row.rate, row.seconds_per_step, row.ratio, row.runs) == (4000, 0.1, 2, 3)
    assert cells(beside_torch.columns("words"), row) == [
        *("a", "2.00 s", "1.50 s", "3.00 s", "100 ms"),
        *("4000", "2.00", "3"),
    ]


def test_without_pytorch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    torch_module.cache_clear()
    assert exit_code(language_model.main, []) == 2
    assert 'this benchmark needs PyTorch; install it with: pip install "rnnjax[bench]"' in capsys.readouterr().err


def test_arguments_that_cannot_be_used_are_refused():
    with pytest.raises(SystemExit) as refused:
        language_model.parse(["--variant", "tiny"])
    assert refused.value.code == 2
