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
from benchmarks.kernels import reference, sweeps
from benchmarks.kernels import rows as rows_of_all
from benchmarks.kernels.cases import KINDS, Case, numbers
from benchmarks.kernels.contenders import CONTENDERS
from benchmarks.kernels.floor import Rates, floor_of, narrowest_split
from benchmarks.kernels.ready import Layer, Refused, jax_ready
from benchmarks.kernels.rows import BASE, Row
from rnnjax.unrolling.kernels.layout import layout

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.thorough]

SMALL = Case("LSTM", 1, 6, 3, 10, "float32")
TIMES = timing.Spread(2e-3, 1e-3, 3e-3)


def measured(case, *contenders):
    with kernels.Patience(100, lambda: None) as patience:
        return kernels.measure("main", case, contenders, 0.01, patience)


@pytest.mark.parametrize("cell", KINDS)
def test_values_and_gradients_of_every_cell_are_those_in_float64(cell):
    (row,) = measured(SMALL._replace(cell=cell, projected=True), "scan")
    assert row.reason is None
    assert row.error < 1e-5
    assert row.forward.median > 0
    assert row.both.median > 0


def test_heads_are_recurrences_side_by_side():
    (row,) = measured(SMALL._replace(cell="GRU", heads=2), "fused")
    assert row.error < 1e-5


def test_the_reference_s_gradient_is_that_of_small_changes():
    case = Case("LSTM+peephole", 1, 3, 2, 4, "float32")
    given = numbers(case)
    moved = np.random.default_rng(1).standard_normal(given.parameters["own"].shape)

    def total(by):
        changed = given._replace(parameters=given.parameters | {"own": given.parameters["own"] + by * moved})
        return (reference.compute(case, changed).outputs * given.d_outputs).sum()

    slope = (total(1e-5) - total(-1e-5)) / 2e-5
    assert (reference.compute(case, given).d_parameters["own"] * moved).sum() == pytest.approx(slope, rel=1e-6)


def wrong(case, given):
    """The scan with an error of a hundredth in one gradient."""
    right = CONTENDERS["scan"](case, given)

    def read(made):
        result = right.read(made)
        return result._replace(d_parameters={name: 1.01 * d for name, d in result.d_parameters.items()})

    return right._replace(read=read)


def failing(case, given):
    raise Refused("it has no such cell")


def test_what_is_wrong_is_not_timed_and_what_fails_is_named(monkeypatch):
    monkeypatch.setitem(CONTENDERS, "pallas", wrong)
    monkeypatch.setitem(CONTENDERS, "cudnn", failing)
    off, refused, right = measured(SMALL, "pallas", "cudnn", "scan")
    assert (off.reason, off.forward) == ("wrong: the gradient of w_h is off by 1.0%", None)
    assert (refused.reason, refused.error) == ("it has no such cell", None)
    assert right.reason is None
    said = rows_of_all.summary([off, refused, refused, right])
    assert "pallas, not timed in 1: wrong: the gradient of w_h is off by 1.0%" in said
    assert "cudnn, not timed in 2: it has no such cell" in said


def test_a_gradient_where_there_is_none_is_seen():
    def leaking(params, zs):
        return 0.0 * zs[..., 0, :] * params + zs[..., 0, :].mean(0)

    ready = jax_ready(SMALL, numbers(SMALL), Layer(leaking, lambda p: p["w_h"][0, 0, 0], lambda p: {}))
    with pytest.raises(ValueError, match="have a gradient"):
        ready.read(ready.both(ready.sample(0, numbers(SMALL))))


def test_a_run_prints_a_table_and_writes_rows(capsys, tmp_path):
    path = tmp_path / "rows.json"
    arguments = ["--smoke", "--sweeps", "main", "--contenders", "scan", "jax.rnn", "--seconds", "60"]
    kernels.main([*arguments, "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    found = [(row["dtype"], row["projected"], row["contender"], row["reason"]) for row in rows]
    assert found == [
        ("bfloat16", False, "scan", None),
        ("bfloat16", True, "scan", None),
        ("float32", True, "jax.rnn", "it needs an NVIDIA GPU"),
        ("float32", True, "scan", None),
        ("float32", False, "scan", None),
    ]
    assert all(row["both_seconds"]["median"] > 0 and row["error"] < 0.03 for row in rows if row["reason"] is None)
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("main") for line in said) == 5
    assert said[-1] == "jax.rnn, not timed in 1: it needs an NVIDIA GPU"


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
    options = kernels.parse(["--sweeps", "main", "heads", "--seconds", "4.8"])
    with kernels.Patience(100, lambda: None) as patience:
        made = list(kernels.measure_all(options, {}, patience, Clock()))
    assert [each if isinstance(each, str) else each.sweep for each in made] == [
        "main",
        "main",
        "main",
        "main: stopped after 3 of 4 cases, its part of 4.8 s is over",
        "heads: stopped after 0 of 4 cases, its part of 4.8 s is over",
    ]


def test_what_hangs_ends_the_run(capsys):
    left = []
    with kernels.Patience(0.01, lambda: left.append(True)) as patience:
        patience.begin("a case")
        patience._timer.join(5)
    assert left == [True]
    assert "a case: not done after 0.01 s; leave a contender out by --contenders" in capsys.readouterr().out


def test_ratios_are_to_the_published_times():
    rows = [
        Row("main", BASE, "pallas", timing.Spread(4.87e-3, 0, 0), timing.Spread(26.49e-3, 0, 0)),
        Row("main", BASE._replace(projected=True), "torch fp16", timing.Spread(4.02e-3, 0, 0), TIMES),
        Row("main", SMALL, "scan", TIMES, TIMES),
    ]
    ours, torch = rows_of_all.against_bars(rows)[2:4]
    assert ours.split()[2:] == ["pallas", "4.87", "ms", "26.5", "ms", "1.00,", "1.95", "0.45,", "1.00"]
    assert torch.split()[2:] == ["torch", "fp16", "4.02", "ms", "2.00", "ms", "2.00,", "0.39"]
    assert rows_of_all.against_bars(rows[2:]) == []


def test_the_summary_has_our_kernel_beside_cudnn_s_and_the_heads():
    x = BASE._replace(projected=True)
    rows = [
        Row("batch", x, "pallas", TIMES, TIMES),
        Row("batch", x, "torch fp16", timing.Spread(1e-3, 0, 0), timing.Spread(4e-3, 0, 0)),
        Row("heads", BASE._replace(heads=4, H=192), "pallas", TIMES, TIMES),
    ]
    assert rows_of_all.summary(rows) == [
        "heads, forward, both, pallas: 4 x 192: 2.00 ms, 2.00 ms",
        "pallas bfloat16 over cuDNN float16, LSTM, H 768, B 16, T 1024: 2.00, 0.50",
    ]


def test_the_summary_names_the_fastest_loop_and_the_own_cell_s_time_over_the_lstm_s():
    slow = Row("loops", BASE, "scan", TIMES, timing.Spread(4e-3, 0, 0))
    own = Row("cells", BASE._replace(cell="own"), "scan", TIMES, TIMES)
    said = rows_of_all.summary([slow, Row("loops", BASE, "scan(4) while", TIMES, TIMES), own])
    assert said[0] == "own cell over LSTM, both, scan: 0.50 at H 768"
    assert said[1].endswith("both: fastest is scan(4) while, 2.00 ms, scan 4.00 ms")


def test_all_named_contenders_are_there_and_every_sweep_has_its_part():
    found = sweeps.sweeps()
    assert {name for sweep in found.values() for job in sweep.jobs for name in job.contenders} <= set(CONTENDERS)
    assert sum(sweep.share for sweep in found.values()) == pytest.approx(1)
    assert {(job.case.heads, job.case.H) for job in found["heads"].jobs} == {(16, 48), (8, 96), (4, 192), (2, 384)}


def test_what_the_accelerator_measures_has_the_shapes_that_were_asked_for_and_only_contenders_that_there_are():
    found = sweeps.accelerator_sweeps()
    jobs = [job for sweep in found.values() for job in sweep.jobs]
    assert {name for job in jobs for name in job.contenders} <= set(CONTENDERS)
    base = {(job.case.cell, job.case.heads, job.case.H) for job in found["base"].jobs}
    assert base == {(cell, *size) for cell in ("LSTM", "GRU", "BasicRNN", "own") for size in ((1, 768), (12, 64))}
    grid = {(job.case.H, job.case.B) for job in found["grid"].jobs}
    assert grid == {(H, B) for H in (128, 256, 512) for B in (16, 64, 256)}
    assert found["base"].jobs[0].case == BASE


def test_the_floor_is_that_of_the_products_or_of_the_waits_whichever_is_longer():
    case = Case("GRU", 2, 5, 3, 10, "float32")
    products = 2 * 10 * 3 * 3 * 2 * 5 * 5
    assert floor_of(case, {"float32": Rates(products, None)}) == (1.0, 3.0)
    assert floor_of(case._replace(projected=True), {"float32": Rates(products, 0.01)}) == (2.0, 6.0)
    assert floor_of(case, {"float32": Rates(products, 0.2)}) == (2.0, 4.0)
    assert floor_of(case, {}) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wait_is_that_of_a_kernel_over_blocks(dtype):
    width = narrowest_split(dtype)
    found = [layout(1, 1, jax.numpy.dtype(dtype).itemsize, 16, size) for size in (width, width - 16)]
    assert [each.blocks > 1 for each in found] == [True, False]


@pytest.mark.parametrize("arguments", [["--sweeps", "depth"], ["--contenders", "haste"], ["--seconds", "0"]])
def test_bad_usage_is_one_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        kernels.parse(arguments)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_it_needs_none_of_the_packages_for_training_nor_do_whole_jobs_need_those_of_the_commands():
    commands = ("orbax", "tensorboardX", "tensorflow_datasets", "ml_collections", "torch")
    found = "print(*(name for name in {} if name in sys.modules), '.')".format
    program = f"import sys, benchmarks.kernels.__main__; {found(('flax', 'optax', *commands))}; "
    program += f"import benchmarks.mnist, benchmarks.language_model; {found(commands)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [".", "."]
