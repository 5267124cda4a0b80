"""Training that is timed is training: losses fall, by every way of unrolling alike."""

import argparse
import sys

import numpy as np
import pytest

from benchmarks import beside_torch
from benchmarks.classifier import Case, classifier
from benchmarks.command import exit_code
from benchmarks.engine import epoch_call
from benchmarks.pytorch import torch_module
from benchmarks.subjects import METHODS
from rnnjax.config import OptimizerConfig, TrainConfig

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

CASE = Case("LSTM", 1, 4, 4, 2, 5)
CONFIG = TrainConfig(batch_size=4, optimizer=OptimizerConfig(learning_rate=0.03))


def losses(method, calls):
    call = epoch_call(classifier(CASE)[1], CONFIG, METHODS[method], steps=1)
    return [float(call()[0]) for _ in range(calls)]


def test_every_call_goes_on_from_the_one_before_by_every_method():
    taken = losses("scan", 30)
    assert taken[-1] < 0.5 * taken[0]
    np.testing.assert_allclose(losses("fused", 3), taken[:3], rtol=1e-5)


def test_what_fails_is_said_and_the_others_go_on():
    def failing():
        raise ValueError("H is too large\nfor one block")

    makers = beside_torch.makers_of_rnnjax(classifier(CASE)[1], CONFIG, ["auto"], 1)
    options = argparse.Namespace(repeats=1, steps=1)
    row, failed = beside_torch.measure({**makers, "rnnjax pallas": failing}, options, count=4)
    assert (row.model, row.runs, row.rate) == ("rnnjax", 1, pytest.approx(4 / row.seconds.median))
    assert (failed.model, failed.reason) == ("rnnjax pallas", "H is too large for one block")


def test_without_pytorch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    torch_module.cache_clear()
    assert exit_code(beside_torch.main, []) == 2
    assert 'this benchmark needs PyTorch; install it with: pip install "rnnjax[bench]"' in capsys.readouterr().err
