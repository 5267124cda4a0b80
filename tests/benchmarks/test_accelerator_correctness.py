"""Methods beside float64: what is right, what refuses, what is wrong."""

import json

import jax.numpy as jnp
import pytest

from benchmarks.kernels import correctness
from benchmarks.kernels.cases import Case
from benchmarks.kernels.correctness import lengths_and_resets, measure
from rnnjax import CuDNN, Fused, Scan

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("cell", ["own", "GRU", "LSTM+peephole"])
def test_values_and_gradients_with_lengths_and_resets_are_those_in_float64(cell):
    row = measure(Case(cell, 1, 3, 9, 8, "float32", projected=True), Fused())
    assert (row.given, row.reason, row.wrong) == ("lengths and resets", None, False)
    assert row.error < 1e-5


def test_there_are_sequences_without_a_step_and_of_all_steps_and_resets_at_the_first():
    given = lengths_and_resets(Case("LSTM", 1, 3, 9, 8, projected=True))
    assert {0, 8} <= set(given["lengths"])
    assert given["resets"][0, 0]
    assert 0.1 < given["resets"].mean() < 0.3


def test_a_method_that_refuses_is_not_wrong_and_says_why():
    row = measure(Case("GRU", 1, 3, 2, 8, "float32", projected=True), CuDNN())
    assert (row.wrong, row.given) == (False, None)
    assert row.reason == "cuDNN runs the plain LSTM only, got GRU; use Fused() or Scan()"


class Wrong(Scan):
    """Outputs that are off by a hundredth."""

    def run(self, recurrence):
        ys, state = super().run(recurrence)
        return 1.01 * ys, state


class NoNumber(Scan):
    """Outputs that are no numbers."""

    def run(self, recurrence):
        ys, state = super().run(recurrence)
        return jnp.nan * ys, state


class Failing(Scan):
    """A program that cannot be built for a reason that is no refusal."""

    def run(self, recurrence):
        raise RuntimeError("no kernel image")


def test_what_is_wrong_and_what_fails_ends_the_command_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(correctness, "METHODS", (Scan(), Wrong(), NoNumber(), Failing()))
    monkeypatch.setattr(correctness.report, "available_cores", lambda: 1)  # what holds annotations is for one thread
    sizes = ["--hidden", "3", "--batch", "9", "--json", str(tmp_path / "rows.json")]
    with pytest.raises(SystemExit) as ended:
        correctness.main(["--cells", "BasicRNN", "--dtypes", "float32", *sizes])
    assert ended.value.code == 1
    right, wrong, no_number, failed = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["wrong"] for row in (right, wrong, no_number, failed)] == [False, True, True, True]
    assert wrong["error"] == pytest.approx(0.01, rel=0.01)
    assert failed["reason"] == "RuntimeError: no kernel image"
    assert capsys.readouterr().out.splitlines()[-1] == "4 tried, 0 refused, 3 wrong"
