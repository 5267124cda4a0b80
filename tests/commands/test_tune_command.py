"""`python -m rnnjax.tune`, and the name that it shares with the function."""

import json
import subprocess
import sys

import pytest

from rnnjax.cache import cache_directory
from rnnjax.tune import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rnnjax.tune.keep_compilations", lambda: None)


def test_it_prints_a_table_writes_it_and_keeps_the_choice(call, tmp_path):
    arguments = ["--cell", "BasicRNN", "--shape", "1,2,3,4", "--forward-only", "--seconds", "0", "--dtype", "bfloat16"]
    code, out, sentences, _ = call(main, *arguments, "--json", tmp_path / "times.json")
    assert (code, sentences) == (0, [])
    assert "BasicRNN(4), T 1, batch 2, 3 features, products in bfloat16" in out
    [found] = json.loads((tmp_path / "times.json").read_text())["recurrences"]
    assert [timed["method"]["name"] for timed in found["methods"]] == ["Scan", "Fused", "Static"]
    [kept] = json.loads((cache_directory() / "methods.json").read_text()).values()
    assert (kept["method"], kept["gradient"]) == (found["forward"], False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--shape", "1,2,3,4"],
            "rnnjax: the following arguments are required: --cell; see python -m rnnjax.tune --help",
        ),
        (["--cell", "LSM", "--shape", "1,2,3,4"], "did you mean 'LSTM'?"),
        (["--cell", "LSTM", "--shape", "1,2,3"], "such as 28,150,28,150, got '1,2,3'"),
        (["--cell", "LSTM", "--shape", "1,2,3,-4"], "such as 28,150,28,150, got '1,2,3,-4'"),
        (["--cell", "LSTM", "--shape", "1,2,3,4", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["--cell", "LSTM", "--shape", "1,2,3,4", "--layers", "0"], "--layers must be at least 1, got 0"),
        (["--cell", "LSTM", "--shape", "1,2,3,4", "--seconds", "nan"], "--seconds must be from 0 to 3600, got nan"),
        (["--cell", "LSTM", "--shape", "1,2,3,4", "--json", "none/x.json"], "--json none/x.json is in no directory"),
        (["--cell", "LSTM", "--shape", "1,2,3,4", "more"], "unrecognized arguments: more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_one_sentence(arguments, sentence, call):
    code, out, sentences, err = call(main, *arguments)
    assert (code, out) == (2, "")
    assert len(sentences) == 1
    assert sentence in sentences[0]
    assert "Traceback" not in err


NAMES = """
import inspect, rnnjax
cell, shape = rnnjax.BasicRNN(2), (1, 1, 1)
def tuned():
    report = rnnjax.tune(cell, shape, methods=(), seconds=0, keep=False, gradient=False)
    return report.methods == (rnnjax.Scan(),) and next(iter(inspect.signature(rnnjax.tune).parameters)) == "cell"
print(tuned())
import rnnjax.tune
print(tuned(), rnnjax.tune.main.__name__)
from rnnjax import tune
print(tune(cell, shape, methods=(), seconds=0, keep=False, gradient=False).methods)
"""


@pytest.mark.thorough
def test_the_function_and_the_command_have_one_name():
    done = subprocess.run([sys.executable, "-W", "error", "-c", NAMES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "True main", "(Scan(unroll=1, remat_every=None),)"]


def test_the_command_starts_as_a_process(run_command):
    ended = run_command("rnnjax.tune", "--cell", "LSTM", "--shape", "1,2,3")
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
