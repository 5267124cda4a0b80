"""Reproduces published figures: ``python -m rnnjax.reproduce [NAME ...] [--seeds N] [--list]``.

Runs the training command once a seed, each in its own directory; a run that was stopped goes on, and one that is
complete is not run again. Writes `results.json` and a table, `docs/results.md`, which keep what earlier calls found.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnjax.commands import exit_code
from rnnjax.errors import ConfigError, TrainingError
from rnnjax.experiments import EXPERIMENTS, Experiment, Figure

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: for an unknown experiment; TrainingError: if a run fails.
    """
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{name:<24}{experiment.config}" for name, experiment in EXPERIMENTS.items()))
        return
    from rnnjax.training.run_directory import write_json

    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for name in options.names or EXPERIMENTS:
        if name not in EXPERIMENTS:
            raise ConfigError(f"unknown experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
        results[name] = run(EXPERIMENTS[name], options.workdir / name, options.seeds)
        write_json(options.results, results)
        options.table.write_text(table(results))
        _log.info("%s", "\n".join(row(name, figure, results) for figure in EXPERIMENTS[name].figures))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = argparse.ArgumentParser(prog="python -m rnnjax.reproduce", description="Reproduces published figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments; all of them where none is named")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with seeds from 0 (default: 3)")
    parser.add_argument("--list", action="store_true", help="print the experiments and end")
    parser.add_argument("--workdir", type=Path, default=Path("runs/reproduce"), help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=Path("results.json"))
    parser.add_argument("--table", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {options.seeds}")
    return options


def run(experiment: Experiment, directory: Path, seeds: int) -> dict[str, Any]:
    """Returns the figures of every seed, with time, device, versions and command.

    Raises:
      TrainingError: if a run does not end well; what it said stands above.
    """
    from rnnjax.training.run_directory import RunDirectory

    command = ["-m", "rnnjax.train", "--config", experiment.config]
    figures: dict[str, list[float]] = {figure.what: [] for figure in experiment.figures}
    summaries = []
    for seed in range(seeds):
        run_directory = RunDirectory(directory / f"seed{seed}")
        if run_directory.summary() is None:
            _log.info("%s, seed %d", experiment.config, seed)
            full = [sys.executable, *command, f"--config.seed={seed}", "--workdir", os.fspath(run_directory.path)]
            code = subprocess.run(full, check=False).returncode
            if code:
                raise TrainingError(f"{experiment.config}, seed {seed}: exit code {code}; run again to go on")
        summaries.append(run_directory.summary())
        for figure in experiment.figures:
            figures[figure.what].append(figure.read(run_directory.metrics()))
    last = summaries[-1]
    return {
        "command": "python " + " ".join(command),
        "figures": figures,
        "seconds": [summary["seconds"] for summary in summaries],
        "steps_per_second": [summary["steps_per_second"] for summary in summaries],
        **{name: last[name] for name in ("device", "versions", "git_commit", "data")},
    }


def table(results: dict[str, Any]) -> str:
    """Returns the results as a page."""
    lines = [
        "# Results",
        "",
        "Written by `python -m rnnjax.reproduce`, which runs the command of a line once a seed. Ours is the mean and",
        "standard deviation over the seeds; the time is the median of whole runs, with compiling, evaluation and",
        "checkpoints; steps/s is without compiling. What was not run is not in the table.",
        "",
        "| experiment | figure | source | ours | seeds | must reach | reached | s a run | steps/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    known = [name for name in EXPERIMENTS if name in results]
    lines += [row(name, figure, results) for name in known for figure in EXPERIMENTS[name].figures]
    lines += ["", "| experiment | command | device | versions | commit | data |", "|---|---|---|---|---|---|"]
    lines += [_provenance(name, results[name]) for name in known]
    return "\n".join(lines) + "\n"


def row(name: str, figure: Figure, results: dict[str, Any]) -> str:
    """Returns a line of the table."""
    result = results[name]
    values = result["figures"][figure.what]
    mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    must, reached = "", ""
    if figure.target is not None:
        must = f"{'≥' if figure.higher else '≤'} {figure.target}"
        reached = "yes" if (mean >= figure.target if figure.higher else mean <= figure.target) else "**no**"
    seconds = statistics.median(result["seconds"])
    rate = statistics.median(result["steps_per_second"])
    cells = [name, figure.what, figure.source, f"{mean:.4f} ± {spread:.4f}", str(len(values)), must, reached]
    return "| " + " | ".join([*cells, f"{seconds:.0f}", f"{rate:.0f}"]) + " |"


def _provenance(name: str, result: dict[str, Any]) -> str:
    device, versions = result["device"], result["versions"]
    packages = [package for package in ("python", "jax", "flax", "optax") if package in versions]
    shown = ", ".join(f"{package} {versions[package]}" for package in packages)
    data = f"{result['data']['name']}, sha256 {result['data']['checksum'][:12]}"
    cells = [name, f"`{result['command']}`", f"{device['count']} x {device['kind']} ({device['platform']})", shown]
    return "| " + " | ".join([*cells, str(result["git_commit"]), data]) + " |"


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
