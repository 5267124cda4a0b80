"""Time to open MNIST from each of its sources: ``python -m benchmarks.data --source FOLDER``."""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import command, report, timing
from benchmarks.report import Column
from rnnjax.data.embedded import load_embedded_digits
from rnnjax.data.mnist import load_mnist

_COLUMNS = (Column("source", width=40, left=True), Column("median", "seconds", "s", 8), Column("runs", width=4))


class Row(NamedTuple):
    """The median of the seconds that opening a source takes."""

    source: str
    seconds: float
    runs: int


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    report.show(options, _COLUMNS, measure(options))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.FiguresParser("data", "Times opening MNIST, imports not counted.", repeats=1)
    parser.add_argument("--source", required=True, help="folder with the four original files")
    parser.add_argument("--repeats", type=command.at_least_one, default=5)
    return parser.options(arguments)


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for each source."""
    with tempfile.TemporaryDirectory() as prepared:
        yield Row("prepare a TFDS directory from the files", prepare(options.source, prepared), 1)
        times = timing.interleave(contenders(options.source, prepared), repeats=options.repeats)
    yield from (Row(name, timing.spread(seconds).median, len(seconds)) for name, seconds in times.items())


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
    command.run(main)
