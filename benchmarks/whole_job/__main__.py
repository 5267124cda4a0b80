"""A whole training job beside PyTorch's, from start to end of the process: ``python -m benchmarks.whole_job``.

How long does a user wait for `configs/mnist.py`, with starting, reading the data, compiling, evaluating and writing,
and how long for the same model, data and batch size written for PyTorch (`torch_job.py`)?
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import command, processes, report, timing
from benchmarks.report import Column
from configs.mnist import VARIANTS
from rnnjax.data.mnist_files import originals_folder
from rnnjax.errors import DataError

_EPILOG = """\
Each job is a process of its own, and they take turns. "cold" is the training command with an empty cache, as the first
run on a machine finds it; "warm" finds the compiled programs and the measured devices that the cold run of its turn
kept. PyTorch's job reads the same files and trains, evaluates after every epoch and tests at the end; it writes no
checkpoints, logs or plots. Ratios are PyTorch's time over ours, medians of the turns.
"""

_COLUMNS = (
    Column("job", width=12, left=True),
    Column("whole job", "seconds.median", "s"),
    Column("low", "seconds.low", "s", 8),
    Column("high", "seconds.high", "s", 8),
    Column("a step", "seconds_per_step", "s", 8),
    Column("validation", "validation_accuracy", ".4f"),
    Column("test", "test_accuracy", ".4f", 7),
    Column("PyTorch / it", "ratio", ".2f"),
)


class Job(NamedTuple):
    """One run of a job: seconds from start to end of its process, seconds a step, and the last accuracies."""

    seconds: float
    step_seconds: float
    validation: float
    test: float


class Row(NamedTuple):
    """The figures of a job: medians over the turns, and PyTorch's time over its own in the same turn."""

    job: str
    seconds: timing.Spread
    seconds_per_step: float
    validation_accuracy: float
    test_accuracy: float
    ratio: float
    runs: list[Job]


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    folder_of_originals(options)
    about = f"configs/mnist.py:{options.variant}"
    report.show(options, _COLUMNS, measure(options), on=processes.machine(), about=about)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.FiguresParser(
        "whole_job", "A whole training job beside PyTorch's.", _EPILOG, variant="rnn31", epochs=1, repeats=1
    )
    add = parser.add_argument
    add("--variant", choices=["rnn150", "rnn31"], default="rnn150", help="of configs/mnist.py; rnn150")
    processes.add_config_options(parser)
    add("--repeats", type=command.at_least_one, default=3, help="turns; 3")
    return parser.options(arguments)


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the row of each job, after all turns."""
    jobs: dict[str, list[Job]] = {"cold": [], "warm": [], "PyTorch": []}
    for turn in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            jobs["cold"].append(rnnjax_job(options, Path(folder), "cold"))
            jobs["warm"].append(rnnjax_job(options, Path(folder), "warm"))
            jobs["PyTorch"].append(torch_job(options))
        took = ", ".join(f"{name} {job[-1].seconds:.1f} s" for name, job in jobs.items())
        print(f"turn {turn + 1}: {took}", file=sys.stderr, flush=True)
    yield from (row(name, runs, jobs["PyTorch"]) for name, runs in jobs.items())


def rnnjax_job(options: argparse.Namespace, folder: Path, name: str) -> Job:
    """Runs the training command, whose cache is in the folder."""
    directory = folder / name
    words = ["rnnjax.train", "--config", f"configs/mnist.py:{options.variant}", *processes.config_arguments(options)]
    seconds, _ = processes.timed([*words, "--workdir", str(directory)], {"RNNJAX_CACHE": str(folder / "cache")})
    summary = json.loads((directory / "summary.json").read_text())
    final = summary["final"]
    accuracies = (final["validation"]["accuracy"], final["test"]["accuracy"])
    return Job(seconds, 1 / summary["steps_per_second"], *accuracies)


def torch_job(options: argparse.Namespace) -> Job:
    """Runs PyTorch's job."""
    config = VARIANTS[options.variant]
    sizes = {
        "kind": config.cell.kind,
        "hidden": config.cell.hidden_size,
        "layers": config.cell.layers,
        "learning_rate": config.optimizer.learning_rate,
        "batch_size": config.batch_size,
        "epochs": options.epochs or config.epochs,
        "data": str(folder_of_originals(options)),
    }
    seconds, printed = processes.timed(["benchmarks.whole_job.torch_job", json.dumps(sizes)])
    return Job(seconds, **json.loads(printed.splitlines()[-1]))


def folder_of_originals(options: argparse.Namespace) -> Path:
    """Returns the folder of MNIST's four files.

    Raises:
      DataError: if there is none.
    """
    root = options.data or os.environ.get("RNNJAX_DATA")
    folder = root and originals_folder(Path(root).expanduser())
    if not folder:
        raise DataError("both jobs read MNIST's original files; name their folder with --data or RNNJAX_DATA")
    return folder


def row(name: str, runs: Sequence[Job], beside: Sequence[Job]) -> Row:
    """Returns the figures of a job, from its runs and from those of PyTorch's."""
    spread = timing.spread([run.seconds for run in runs])
    step, validation, test = (statistics.median(values) for values in list(zip(*runs))[1:])
    ratio = statistics.median([other.seconds / run.seconds for run, other in zip(runs, beside)])
    return Row(name, spread, step, validation, test, ratio, list(runs))


if __name__ == "__main__":
    command.run(main)
