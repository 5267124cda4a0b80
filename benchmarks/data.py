"""Time to open MNIST from each of its sources: ``python -m benchmarks.data --source FOLDER``."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import report, timing
from rnnjax.commands import exit_code
from rnnjax.data.embedded import load_embedded_digits
from rnnjax.data.mnist import load_mnist

_COLUMNS = (report.Column("source", 40, left=True), report.Column("median", 8), report.Column("runs", 4))


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      DataError: if the folder has not the original files.
    """
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as prepared:
        preparing = prepare(options.source, prepared)
        times = timing.interleave(contenders(options.source, prepared), repeats=options.repeats)
    rows = [{"source": "prepare a TFDS directory from the files", "seconds": preparing, "runs": 1}]
    rows += [{"source": name, "seconds": timing.spread(t).median, "runs": len(t)} for name, t in times.items()]
    machine = report.machine()
    print(f"{report.header(machine)}\n\n{report.title_line(_COLUMNS)}")
    for row in rows:
        print(report.line(_COLUMNS, (row["source"], report.si(row["seconds"], "s"), row["runs"])))
    if options.json:
        report.write_json(options.json, machine=machine, rows=rows)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = report.Parser(prog="python -m benchmarks.data", description="Times opening MNIST, imports not counted.")
    parser.add_argument("--source", required=True, help="folder with the four original files")
    parser.add_argument("--repeats", type=report.at_least_one, default=5)
    parser.add_argument("--json", type=report.output_path, metavar="PATH")
    return parser.parse_args(arguments)


def prepare(source: str, directory: str) -> float:
    """Prepares the TFDS data set in a directory; returns the seconds it took."""
    from rnnjax.data.mnist_builder import prepare_mnist

    started = time.perf_counter()
    prepare_mnist(directory, source_dir=source)
    return time.perf_counter() - started


def contenders(source: str, prepared: str) -> dict[str, Callable[[], Any]]:
    """Returns what opens each source, all 70,000 images (5,000 embedded ones) as arrays in memory."""
    return {
        "the original files": functools.partial(load_mnist, source),
        "the prepared TFDS directory": functools.partial(_load_prepared, prepared),
        "the embedded digits": load_embedded_digits,
    }


def _load_prepared(directory: str) -> Any:
    from rnnjax.data.mnist_builder import mnist_builder, read_prepared

    return read_prepared(mnist_builder(directory))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
