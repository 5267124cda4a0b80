"""Many small runs at once beside one after the other: ``python -m benchmarks.sweeps``.

How long do N seeds take as one sweep, and how long as N runs of the training command, from start to end of the
processes, with starting, compiling, evaluating and writing?
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from rnnjax.commands import exit_code
from rnnjax.errors import TrainingError

_EPILOG = """\
Runs and sweeps take turns: before the sweep of N seeds come the runs with the seeds up to the N-th, each a process
with the devices that the training command takes. "ratio" is the sweep's time over that of the N runs. "a step" is the
time of a training step without compiling: of one run that has the machine to itself, and of all N runs of the sweep
together. The last columns are the mean of the validation metric at the end, to show that both trained the same.
"""

_COLUMNS = (
    report.Column("seeds"),
    report.Column("runs", 8),
    report.Column("sweep", 8),
    report.Column("ratio"),
    report.Column("compiling", 9),
    report.Column("a step: one run", 15),
    report.Column("all of sweep", 12),
    report.Column("metric: runs", 12),
    report.Column("sweep", 8),
)


class Row(NamedTuple):
    """What was measured of a number of seeds, in seconds; the metric is the validation one that is kept best by."""

    seeds: int
    runs_seconds: float
    sweep_seconds: float
    compile_seconds: float
    run_step_seconds: float
    sweep_step_seconds: float
    metric: str
    runs_mean: float
    sweep_mean: float

    @property
    def ratio(self) -> float:
        """The sweep's time over that of the runs."""
        return self.sweep_seconds / self.runs_seconds


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      TrainingError: if a run or a sweep does not end well; what it said stands above.
    """
    options = parse(arguments)
    # This process asks JAX for the device's name only, and leaves the memory of a GPU to the commands.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    machine = report.machine()
    del os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
    settings = {"config": options.config, "arguments": config_arguments(options)}
    print(f"{report.header(machine)}\n{' '.join([options.config, *settings['arguments']])}\n")
    print(report.title_line(_COLUMNS), flush=True)
    rows, summaries = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seeds in sorted(set(options.seeds)):
            while len(summaries) < min(seeds, options.runs or seeds):
                summaries.append(run_seed(options, Path(folder), len(summaries)))
            rows.append(row(seeds, summaries, *run_sweep(options, Path(folder), seeds)))
            print(report.line(_COLUMNS, cells(rows[-1])), flush=True)
            if options.json:
                as_json = [each._asdict() | {"ratio": each.ratio} for each in rows]
                report.write_json(options.json, machine=machine, settings=settings, rows=as_json)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = report.Parser(
        "python -m benchmarks.sweeps",
        description="Seeds as one sweep, and as runs one after the other.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", default="configs/mnist.py:rnn31", help="config file and variant; configs/mnist.py:rnn31")
    add("--epochs", type=report.at_least_one, help="the config's own where it is not given")
    add("--data", metavar="PATH", help="folder of the data; else RNNJAX_DATA")
    add("--seeds", nargs="+", type=report.at_least_one, default=[1, 4, 8, 16], metavar="N", help="1 4 8 16")
    help_ = "single runs that are made at most, N of which count as N times their mean; as many as seeds"
    add("--runs", type=report.at_least_one, metavar="N", help=help_)
    add("--json", type=report.output_path, metavar="PATH", help="write all figures here")
    return parser.parse_args(arguments)


def config_arguments(options: argparse.Namespace) -> list[str]:
    """Returns what both commands are given besides the config file."""
    given = {"epochs": options.epochs, "data.path": options.data}
    return [f"--config.{name}={value}" for name, value in given.items() if value is not None]


def run_seed(options: argparse.Namespace, folder: Path, seed: int) -> tuple[float, dict[str, Any]]:
    """Returns the seconds that the training command takes with a seed, and its summary."""
    directory = folder / f"run{seed}"
    seconds = timed("rnnjax.train", options, directory, f"--config.seed={seed}")
    return seconds, json.loads((directory / "summary.json").read_text())


def run_sweep(options: argparse.Namespace, folder: Path, seeds: int) -> tuple[float, dict[str, Any]]:
    """Returns the seconds that the sweep command takes for as many seeds, and its results."""
    directory = folder / f"sweep{seeds}"
    seconds = timed("rnnjax.sweep", options, directory, f"--seeds={seeds}")
    return seconds, json.loads((directory / "sweep.json").read_text())


def timed(module: str, options: argparse.Namespace, directory: Path, argument: str) -> float:
    """Returns the seconds from start to end of a command that trains into a directory.

    Raises:
      TrainingError: if it does not end well.
    """
    command = [sys.executable, "-m", module, "--config", options.config, *config_arguments(options), argument]
    started = time.perf_counter()
    ended = subprocess.run([*command, "--workdir", str(directory)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise TrainingError(f"{module} {argument} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return seconds


def row(seeds: int, runs: Sequence[tuple[float, dict[str, Any]]], sweep_seconds: float, results: dict[str, Any]) -> Row:
    """Returns the figures of the first runs, or of the mean of those that there are, and of the sweep of all seeds."""
    runs = runs[:seeds]
    summaries, metric = [summary for _, summary in runs], results["metric"]
    rate = statistics.fmean(summary["steps_per_second"] for summary in summaries)
    last = [summary["final"]["validation"][metric] for summary in summaries]
    return Row(
        seeds,
        seeds * statistics.fmean(seconds for seconds, _ in runs),
        sweep_seconds,
        math.fsum(group["compile_seconds"] for group in results["groups"]),
        1 / rate,
        math.fsum(len(group["runs"]) / group["steps_per_second"] for group in results["groups"]),
        metric,
        statistics.fmean(last),
        results["points"][0]["final"]["validation"][metric]["mean"],
    )


def cells(row: Row) -> list[object]:
    """Returns a row as it is printed."""
    seconds = (row.runs_seconds, row.sweep_seconds)
    return [
        row.seeds,
        *(report.si(each, "s") for each in seconds),
        f"{row.ratio:.2f}",
        report.si(row.compile_seconds, "s"),
        report.si(row.run_step_seconds, "s"),
        report.si(row.sweep_step_seconds, "s"),
        f"{row.runs_mean:.4f}",
        f"{row.sweep_mean:.4f}",
    ]


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
