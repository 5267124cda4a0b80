"""The benchmark of kernels, on sizes that take no time: what is right is timed, what is wrong or fails is named."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.command import exit_code
from benchmarks.kernels import __main__ as kernels
from benchmarks.kernels import reference
from benchmarks.kernels.__main__ import Row
from benchmarks.kernels.cases import KINDS, Case, numbers
from benchmarks.kernels.contenders import CONTENDERS
from benchmarks.kernels.floor import Rates, floor_of, narrowest_split
from benchmarks.kernels.ready import jax_ready
from benchmarks.kernels.sweeps import BASE, PROJECTED, contenders, sweeps
from benchmarks.report import cells
from rnnjax.unrolling.kernels.layout import layout

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

SMALL = Case("LSTM", 1, 6, 3, 10, "float32")


def measured(case, *contenders):
    return kernels.measure("main", case, contenders, kernels.parse(["--smoke", "--patience", "1000"]))


@pytest.mark.parametrize("cell", KINDS)
def test_values_and_gradients_of_every_cell_are_those_in_float64(cell):
    (row,) = measured(SMALL._replace(cell=cell, projected=True), "scan")
    assert row.reason is None
    assert row.error < 1e-5
    assert row.forward_seconds.median > 0
    assert row.both_seconds.median > 0


def test_heads_are_recurrences_side_by_side():
    (row,) = measured(SMALL._replace(cell="GRU", heads=2), "fused")
    assert row.error < 1e-5


def test_the_reference_s_gradient_is_that_of_small_changes():
    case = Case("LSTM+peephole", 1, 3, 2, 4, "float32")
    given = numbers(case)
    moved = np.random.default_rng(1).standard_normal(given.params.peephole.shape)

    def total(by):
        changed = given._replace(params=given.params._replace(peephole=given.params.peephole + by * moved))
        return (reference.compute(case, changed).outputs * given.d_outputs).sum()

    slope = (total(1e-5) - total(-1e-5)) / 2e-5
    assert (reference.compute(case, given).d_params.peephole * moved).sum() == pytest.approx(slope, rel=1e-6)


def wrong(case, given):
    """The scan with an error of a hundredth in one gradient."""
    right = CONTENDERS["scan"](case, given)

    def read(made):
        result = right.read(made)
        return result._replace(d_params=result.d_params._replace(w_h=1.01 * result.d_params.w_h))

    return right._replace(read=read)


def failing(case, given):
    raise ValueError("it has no such cell")


def test_what_is_wrong_is_not_timed_and_what_fails_is_named(monkeypatch):
    monkeypatch.setitem(CONTENDERS, "pallas", wrong)
    monkeypatch.setitem(CONTENDERS, "cudnn", failing)
    off, refused, right = measured(SMALL, "pallas", "cudnn", "scan")
    assert (off.reason, off.forward_seconds) == ("wrong: both of d_params of w_h is off by 1.0%", None)
    assert (refused.reason, refused.error) == ("it has no such cell", None)
    assert right.reason is None


def test_a_gradient_where_there_is_none_is_seen():
    def leaking(params, zs):
        return 0.0 * zs[..., 0, :] * params.w_h[0, 0] + zs[..., 0, :].mean(0)

    ready = jax_ready(SMALL, numbers(SMALL), leaking)
    with pytest.raises(ValueError, match="have a gradient"):
        ready.read(ready.both(ready.sample(0, numbers(SMALL))))


def test_a_run_prints_a_table_and_writes_rows(capsys, tmp_path):
    path = tmp_path / "rows.json"
    kernels.main(["--smoke", "--sweeps", "trained", "--contenders", "scan", "--seconds", "60", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [row["case"]["cell"] for row in rows] == ["LSTM", "GRU", "BasicRNN"]
    assert all(row["both_seconds"]["median"] > 0 and row["error"] < 0.03 for row in rows)
    assert sum(line.startswith("trained") for line in capsys.readouterr().out.splitlines()) == 3


def test_without_a_gpu_it_asks_for_small_sizes(capsys):
    assert exit_code(kernels.main, []) == 2
    assert "add --smoke" in capsys.readouterr().err


class Clock:
    """Every look at it takes a second."""

    now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_a_sweep_ends_when_its_part_of_the_time_is_over_and_says_so(monkeypatch):
    monkeypatch.setattr(kernels, "measure", lambda sweep, case, *_: [Row(sweep, case, "scan")])
    options = kernels.parse(["--sweeps", "base", "trained", "--seconds", "5.8"])
    rates = dict.fromkeys(("float32", "bfloat16"), Rates(1.0, None))
    made = list(kernels.measure_all(options, rates, Clock()))
    assert [each if isinstance(each, str) else each.sweep for each in made] == [
        *("base", "base"),
        "base: stopped after 2 of 13 cases, its part of 5.8 s is over",
        *("trained", "trained"),
        "trained: stopped after 2 of 9 cases, its part of 5.8 s is over",
    ]


def test_what_hangs_ends_the_run():
    program = "import time; from benchmarks.kernels.__main__ import patience\nwith patience(0.01, 'it'): time.sleep(60)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "it: not done after 0.01 s; leave a contender out by --contenders\n")


def test_beside_a_time_stand_the_faster_of_pytorch_s_and_the_published_one():
    def row(name, both):
        times = timing.Spread(1.0, 0.0, 0.0), timing.Spread(both, 0.0, 0.0)
        return Row("base", BASE, name, *times, published_seconds=kernels.PUBLISHED[PROJECTED])

    fastest = kernels.fastest_torch([row("torch", 3.0), row("torch fp16", 2.0), row("pallas", 1.0)])
    assert fastest == (1.0, 2.0)
    shown = cells(kernels._COLUMNS, row("pallas", 5.19e-4)._replace(torch_seconds=(fastest)))
    assert shown[-4:-2] == ["3853.56", "10.00"]
    assert kernels.fastest_torch([row("pallas", 1.0)]) is None


def test_all_contenders_are_there_and_the_shapes_that_were_asked_for():
    found = sweeps()
    assert {name for cases in found.values() for case in cases for name in contenders(case)} <= set(CONTENDERS)
    base = {(case.cell, case.heads, case.H) for case in found["base"]}
    assert base == {(cell, *size) for cell in ("LSTM", "GRU", "BasicRNN", "own") for size in ((1, 768), (12, 64))}
    assert {(case.H, case.B) for case in found["grid"]} == {(H, B) for H in (128, 256, 512) for B in (16, 64, 256)}
    assert found["base"][0] == BASE


def test_the_floor_is_that_of_the_products_or_of_the_waits_whichever_is_longer():
    case = Case("GRU", 2, 5, 3, 10, "float32")
    products = 2 * 10 * 3 * 3 * 2 * 5 * 5
    assert floor_of(case, {"float32": Rates(products, None)}) == (1.0, 3.0)
    assert floor_of(case._replace(projected=True), {"float32": Rates(products, 0.01)}) == (2.0, 6.0)
    assert floor_of(case, {"float32": Rates(products, 0.2)}) == (2.0, 4.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wait_is_that_of_a_kernel_over_blocks(dtype):
    width = narrowest_split(dtype)
    found = [layout(1, 1, jax.numpy.dtype(dtype).itemsize, 16, size) for size in (width, width - 16)]
    assert [each.blocks > 1 for each in found] == [True, False]


def test_it_needs_none_of_the_packages_for_training_nor_do_whole_jobs_need_those_of_the_commands():
    commands = ("orbax", "tensorboardX", "tensorflow_datasets", "ml_collections", "torch")
    found = "print(*(name for name in {} if name in sys.modules), '.')".format
    program = f"import sys, benchmarks.kernels.__main__; {found(('flax', 'optax', *commands))}; "
    program += f"import benchmarks.beside_torch; {found(commands)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [".", "."]
