"""Many small runs at once beside one after the other: ``python -m benchmarks.sweeps``.

How long do N seeds take as one sweep, and how long as N runs of the training command, from start to end of the
processes, with starting, compiling, evaluating and writing?
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import command, processes, report
from benchmarks.report import Column

_EPILOG = """\
Runs and sweeps take turns: before the sweep of N seeds come the runs with the seeds up to the N-th, each a process
with the devices that the training command takes. "ratio" is the sweep's time over that of the N runs. "a step" is the
time of a training step without compiling: of one run that has the machine to itself, and of all N runs of the sweep
together. The last columns are the mean of the validation metric at the end, to show that both trained the same.
"""

_COLUMNS = (
    Column("seeds"),
    Column("runs", "runs_seconds", "s", 8),
    Column("sweep", "sweep_seconds", "s", 8),
    Column("ratio", unit=".2f"),
    Column("compiling", "compile_seconds", "s"),
    Column("a step: one run", "run_step_seconds", "s"),
    Column("all of sweep", "sweep_step_seconds", "s"),
    Column("metric: runs", "runs_mean", ".4f"),
    Column("sweep", "sweep_mean", ".4f", 8),
)


class Row(NamedTuple):
    """What was measured of a number of seeds, in seconds; the metric is the validation one that is kept best by."""

    seeds: int
    runs_seconds: float
    sweep_seconds: float
    ratio: float
    compile_seconds: float
    run_step_seconds: float
    sweep_step_seconds: float
    metric: str
    runs_mean: float
    sweep_mean: float


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    about = " ".join([options.config, *processes.config_arguments(options)])
    report.show(options, _COLUMNS, measure(options), on=processes.machine(), about=about)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "Seeds as one sweep, and as runs one after the other."
    parser = command.FiguresParser("sweeps", what, _EPILOG, seeds=[2], runs=1, epochs=1)
    add, count = parser.add_argument, command.at_least_one
    add("--config", default="configs/mnist.py:rnn31", help="config file and variant; configs/mnist.py:rnn31")
    processes.add_config_options(parser)
    add("--seeds", nargs="+", type=count, default=[1, 4, 8, 16], metavar="N", help="1 4 8 16")
    help_ = "single runs that are made at most, N of which count as N times their mean; as many as seeds"
    add("--runs", type=count, metavar="N", help=help_)
    return parser.options(arguments)


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every number of seeds."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seeds in sorted(set(options.seeds)):
            while len(runs) < min(seeds, options.runs or seeds):
                seed = len(runs)
                summary = Path(folder) / f"run{seed}" / "summary.json"
                runs.append(trained(options, "train", f"--config.seed={seed}", summary))
            sweep = trained(options, "sweep", f"--seeds={seeds}", Path(folder) / f"sweep{seeds}" / "sweep.json")
            yield row(seeds, runs, *sweep)


def trained(options: argparse.Namespace, name: str, argument: str, results: Path) -> tuple[float, dict[str, Any]]:
    """Returns the seconds from start to end of a command, and what it wrote to a file of its work directory."""
    words = [f"rnnjax.{name}", "--config", options.config, *processes.config_arguments(options), argument]
    seconds, _ = processes.timed([*words, "--workdir", str(results.parent)])
    return seconds, json.loads(results.read_text())


def row(seeds: int, runs: Sequence[tuple[float, dict[str, Any]]], sweep_seconds: float, results: dict[str, Any]) -> Row:
    """Returns the figures of the first runs, or of the mean of those that there are, and of the sweep of all seeds."""
    runs = runs[:seeds]
    summaries, metric = [summary for _, summary in runs], results["metric"]
    rate = statistics.fmean(summary["steps_per_second"] for summary in summaries)
    last = [summary["final"]["validation"][metric] for summary in summaries]
    runs_seconds = seeds * statistics.fmean(seconds for seconds, _ in runs)
    return Row(
        seeds,
        runs_seconds,
        sweep_seconds,
        sweep_seconds / runs_seconds,
        math.fsum(group["compile_seconds"] for group in results["groups"]),
        1 / rate,
        math.fsum(len(group["runs"]) / group["steps_per_second"] for group in results["groups"]),
        metric,
        statistics.fmean(last),
        results["points"][0]["final"]["validation"][metric]["mean"],
    )


if __name__ == "__main__":
    command.run(main)
