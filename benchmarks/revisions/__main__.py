"""Is a revision as fast as an older one? ``python -m benchmarks.revisions --before COMMIT``."""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from benchmarks import command, report, timing
from benchmarks.processes import ROOT
from benchmarks.report import Column
from rnnjax.errors import ConfigError

Key = tuple[str, str, str, str]  # cell, shape, method, direction
_SHAPES = ("28,150,28,150", "300,150,28,150", "20,50,1,100")

_EPILOG = """\
Each revision's library, in a process of its own, writes its programs of `unroll` for BasicRNN, LSTM and GRU as
StableHLO. All are then compiled and timed in this one process, in turns, before and after, so that what disturbs the
machine disturbs both. "forward+backward" is the mean of the squared outputs with its gradient with respect to the
parameters. Times are medians; "ratio" is after over before. Programs that are equal byte for byte are not timed.
"""

_COLUMNS = (
    Column("cell", width=8, left=True),
    Column("T,B,I,H", "shape", width=14, left=True),
    Column("method", width=7, left=True),
    Column("direction", width=16, left=True),
    Column("before", "before_seconds", "s", 8),
    Column("after", "after_seconds", "s", 8),
    Column("ratio", unit=".2f"),
    Column("runs", width=4),
)


class Row(NamedTuple):
    """What was measured of a program; equal ones are not timed."""

    cell: str
    shape: str
    method: str
    direction: str
    before_seconds: float | None = None
    after_seconds: float | None = None
    ratio: float = 1.0
    runs: int = 0


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    before, after = all_programs(options)
    rows = (measured(key, before[key], after[key], options.seconds) for key in before)
    report.show(options, _COLUMNS, rows, last=summary)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "Programs of unroll of two revisions, timed in turns."
    parser = command.FiguresParser("revisions", what, _EPILOG, shapes=["2,1,2,3"], seconds=0.001)
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the older revision")
    parser.add_argument("--after", metavar="COMMIT", help="the newer revision; the files as they are now")
    parser.add_argument("--shapes", nargs="+", default=_SHAPES, metavar="T,B,I,H", help=" ".join(_SHAPES))
    parser.add_seconds(3.0, "of measuring each program")
    return parser.options(arguments)


def all_programs(options: argparse.Namespace) -> list[dict[Key, bytes]]:
    """Returns the programs of the older and of the newer revision."""
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / "before", Path(folder) / "after"]
        try:
            return [_programs(*each, options.shapes) for each in zip((options.before, options.after), trees)]
        except subprocess.CalledProcessError as error:
            raise ConfigError(error.stderr.decode(errors="replace").strip().splitlines()[-1]) from error


def _programs(commit: str | None, folder: Path, shapes: Sequence[str]) -> dict[Key, bytes]:
    """Returns the programs of the library of a commit, which is written to a folder; of the files as they are now."""
    folder.mkdir()
    if commit is not None:
        command = ["git", "archive", "--format=tar", commit, "rnnjax"]
        archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    tree, out = ROOT if commit is None else folder, folder / "programs.pickle"
    command = [sys.executable, str(Path(__file__).with_name("programs.py")), str(out), *shapes]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tree)}, cwd=tree, check=True, capture_output=True)
    return pickle.loads(out.read_bytes())


def measured(key: Key, before: bytes, after: bytes, seconds: float) -> Row:
    """Returns what was measured of one program."""
    if before == after:
        return Row(*key)
    contenders = {"before": _call(before), "after": _call(after)}
    times = timing.interleave(contenders, repeats=1000, seconds=seconds, least=5)
    old, new = (timing.spread(times[name]).median for name in contenders)
    return Row(*key, old, new, new / old, len(times["before"]))


def _call(program: bytes) -> Callable[[], Any]:
    """Returns a call of a compiled program with random arguments."""
    exported = export.deserialize(bytearray(program))
    draw = np.random.default_rng(0)
    arrays = [jnp.asarray(0.1 * draw.standard_normal(like.shape), like.dtype) for like in exported.in_avals]
    compiled = jax.jit(exported.call).lower(*arrays).compile()
    return lambda: compiled(*arrays)


def summary(rows: Sequence[Row]) -> str:
    """Returns the mean and the range of the ratios."""
    ratios = [row.ratio for row in rows]
    mean = statistics.geometric_mean(ratios)
    return f"\nratio: {mean:.3f} in the (geometric) mean, {min(ratios):.2f} to {max(ratios):.2f}"


if __name__ == "__main__":
    command.run(main)
