"""The benchmark of language models: what a row says, and what is refused."""

import sys

import pytest

from benchmarks import language_model
from benchmarks.training import torch_module
from rnnjax.commands import exit_code


def test_words_per_second_are_those_of_the_median_call():
    row = language_model.row("rnnjax", [2.0, 1.0, 4.0], words=8000, steps=20)
    assert (row["words_per_second"], row["seconds_per_step"], row["runs"]) == (4000, 0.1, 3)
    assert row["words_per_second_low"] < 4000 < row["words_per_second_high"]
    assert language_model.cells(row) == ["rnnjax", "4000", "2667", "5333", "100 ms", 3]


def test_without_pytorch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    torch_module.cache_clear()
    assert exit_code(language_model.main, []) == 2
    assert 'this benchmark needs PyTorch; install it with: pip install "rnnjax[bench]"' in capsys.readouterr().err


def test_arguments_that_cannot_be_used_are_refused():
    with pytest.raises(SystemExit) as refused:
        language_model.parse(["--variant", "tiny"])
    assert refused.value.code == 2
