"""Is a revision as fast as an older one? ``python -m benchmarks.revisions --before COMMIT``."""

from __future__ import annotations

import argparse
import math
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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from benchmarks import report, timing

_ROOT = Path(__file__).parent.parent
_SHAPES = ("28,150,28,150", "300,150,28,150", "20,50,1,100")

_EPILOG = """\
Each revision's library, in a process of its own, writes its programs of `unroll` for BasicRNN, LSTM and GRU as
StableHLO. All are then compiled and timed in this one process, in turns, before and after, so that what disturbs the
machine disturbs both. "forward+backward" is the mean of the squared outputs with its gradient with respect to the
parameters. Times are medians; "ratio" is after over before. Programs that are equal byte for byte are not timed.
"""

_COLUMNS = (
    report.Column("cell", 8, left=True),
    report.Column("T,B,I,H", 14, left=True),
    report.Column("method", 7, left=True),
    report.Column("direction", 16, left=True),
    report.Column("before", 8),
    report.Column("after", 8),
    report.Column("ratio", 5),
    report.Column("runs", 4),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; returns the exit code."""
    parser = report.Parser(
        "python -m benchmarks.revisions",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the older revision")
    parser.add_argument("--after", metavar="COMMIT", help="the newer revision; the files as they are now")
    parser.add_argument("--shapes", nargs="+", default=_SHAPES, metavar="T,B,I,H", help=" ".join(_SHAPES))
    parser.add_argument("--seconds", type=report.positive, default=3.0, help="of measuring each program; 3")
    parser.add_argument("--json", type=report.output_path, metavar="PATH", help="write all figures here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            trees = [_checked_out(options.before, Path(folder) / "before"), _ROOT]
            if options.after is not None:
                trees[1] = _checked_out(options.after, Path(folder) / "after")
            before, after = (_programs(tree, options.shapes) for tree in trees)
        except subprocess.CalledProcessError as error:
            parser.error(error.stderr.decode(errors="replace").strip().splitlines()[-1])
    machine = report.machine()
    print(report.header(machine), report.title_line(_COLUMNS), sep="\n\n", flush=True)
    rows = []
    for key in before:
        rows.append(_row(key, before[key], after[key], options.seconds))
        print(report.line(_COLUMNS, _cells(rows[-1])), flush=True)
    print(_summary([row["ratio"] for row in rows]))
    if options.json is not None:
        revisions = {"before": options.before, "after": options.after}
        report.write_json(options.json, machine=machine, revisions=revisions, rows=rows)
    return 0


def _checked_out(commit: str, folder: Path) -> Path:
    """Writes the library of a commit to a folder, and returns that."""
    command = ["git", "archive", "--format=tar", commit, "rnnjax"]
    archive = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _programs(tree: Path, shapes: Sequence[str]) -> dict[tuple[str, ...], bytes]:
    """Returns the programs of the library in a folder."""
    out = tree / "programs.pickle" if tree != _ROOT else Path(tempfile.mkstemp(suffix=".pickle")[1])
    command = [sys.executable, str(_ROOT / "benchmarks" / "revision_programs.py"), str(out), *shapes]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    try:
        subprocess.run(command, env=environment, cwd=tree, check=True, capture_output=True)
        return pickle.loads(out.read_bytes())
    finally:
        out.unlink(missing_ok=True)


def _row(key: tuple[str, ...], before: bytes, after: bytes, seconds: float) -> dict[str, Any]:
    """Returns what was measured of one program."""
    named = dict(zip(("cell", "shape", "method", "direction"), key))
    if before == after:
        return {**named, "before_seconds": None, "after_seconds": None, "ratio": 1.0, "runs": 0}
    contenders = {"before": _call(before), "after": _call(after)}
    times = timing.interleave(contenders, repeats=1000, seconds=seconds, least=5)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **named,
        "before_seconds": medians["before"],
        "after_seconds": medians["after"],
        "ratio": medians["after"] / medians["before"],
        "runs": len(times["before"]),
    }


def _call(program: bytes) -> Callable[[], Any]:
    """Returns a call of a compiled program with random arguments."""
    exported = export.deserialize(bytearray(program))
    draw = np.random.default_rng(0)
    arrays = [jnp.asarray(0.1 * draw.standard_normal(like.shape), like.dtype) for like in exported.in_avals]
    compiled = jax.jit(exported.call).lower(*arrays).compile()
    return lambda: compiled(*arrays)


def _cells(row: dict[str, Any]) -> list[str]:
    times = [report.si(row[name], "s") for name in ("before_seconds", "after_seconds")]
    return [row["cell"], row["shape"], row["method"], row["direction"], *times, f"{row['ratio']:.2f}", str(row["runs"])]


def _summary(ratios: Sequence[float]) -> str:
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    return f"\nratio: {mean:.3f} in the (geometric) mean, {min(ratios):.2f} to {max(ratios):.2f}"


if __name__ == "__main__":
    sys.exit(main())
