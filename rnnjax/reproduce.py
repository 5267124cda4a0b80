"""Reproduces published figures: ``python -m rnnjax.reproduce NAME ... [--all] [--seeds N] [--device D] [--list]``.

With ``--config.FIELD=VALUE`` every run has other fields, which makes other results: they need a --results of their own.

Runs the training command once for each seed, each in its own directory; a run that was stopped is resumed, and one
that is complete is not run again. Writes `results.json` and a table, `results.md`, which keep the results of earlier
calls: in `docs` of a checkout of rnnjax, otherwise beside the runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnjax.commands import end, exit_code
from rnnjax.errors import ConfigError, TrainingError
from rnnjax.experiments import EXPERIMENTS, Experiment, Figure
from rnnjax.flag_parser import FlagParser

_MOST_SEEDS = 1000
_TIMES = ("seconds", "steps_per_second")

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: for an unknown experiment; TrainingError: if a run fails.
    """
    options = parse(arguments)
    if options.list or not (options.names or options.all):
        print("\n".join(f"{name:<32}{experiment.config}" for name, experiment in EXPERIMENTS.items()))
        if not options.list:
            raise ConfigError("name the experiments to run, which take minutes to hours each; --all runs all of them")
        return
    from rnnjax.files import is_object, read_json, write_json

    for path in (options.results, options.table):
        path.parent.mkdir(parents=True, exist_ok=True)
    results = read_json(options.results, is_object, "nothing is written there")
    if results is None and options.results.exists():
        raise ConfigError(f"{options.results} is damaged; repair it, or choose another --results")
    results = results or {}
    names = list(EXPERIMENTS) if options.all else options.names
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(f"unknown experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
    for name in names:
        experiment = EXPERIMENTS[name]
        results[name] = run(experiment, options.workdir / name, options.seeds, options.device, options.flags)
        write_json(options.results, results)
        options.table.write_text(table(results))
        _log.info("%s", "\n".join(row(name, figure, results) for figure in EXPERIMENTS[name].figures))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = FlagParser("Reproduces published figures.", prog="python -m rnnjax.reproduce")
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments; without names they are listed")
    parser.add_argument("--all", action="store_true", help="run all experiments, which takes many hours")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with seeds from 0 (default: 3)")
    devices = ["cpu", "cuda", "tpu"]
    parser.add_argument("--device", choices=devices, help="what to run on (default: what JAX finds)")
    parser.add_argument("--list", action="store_true", help="print the experiments and end")
    parser.add_argument("--workdir", type=Path, default=Path("runs/reproduce"), help="where the runs are kept")
    place = "(default: in docs of a checkout, otherwise in --workdir)"
    parser.add_argument("--results", type=Path, help=f"file to keep the results in {place}")
    parser.add_argument("--table", type=Path, help=f"file to write the table to {place}")
    options, options.flags = parser.parse_known_args(arguments)
    folder, given = Path("docs") if Path("docs/results.json").exists() else options.workdir, options.results
    options.results = given or folder / "results.json"
    options.table = options.table or folder / "results.md"
    stray = [flag for flag in options.flags if not flag.startswith("--config.")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    if options.flags and given is None:
        raise ConfigError(f"{options.flags[0]} makes other results than {options.results} is for; give --results FILE")
    if not 1 <= options.seeds <= _MOST_SEEDS:
        raise ConfigError(f"--seeds must be from 1 to {_MOST_SEEDS}, got {options.seeds}")
    return options


def run(
    experiment: Experiment, directory: Path, seeds: int, device: str | None = None, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs an experiment with several seeds.

    Args:
      experiment: the experiment.
      directory: of its runs.
      seeds: number of runs.
      device: JAX's name of a platform; None leaves the choice to JAX.
      flags: ``--config.FIELD=VALUE`` for every run. Figures that such runs do not have are left out.

    Returns:
      the figures of every seed, with time, device, versions and command.

    Raises:
      TrainingError: if a run fails, after it has printed its message.
    """
    from rnnjax.training.directory.run_directory import RunDirectory

    command = ["-m", "rnnjax.train", "--config", found(experiment.config), *flags]
    environment = os.environ if device is None else {**os.environ, "JAX_PLATFORMS": device}
    figures: dict[str, list[float]] = {figure.what: [] for figure in experiment.figures}
    summaries = []
    for seed in range(seeds):
        run_directory = RunDirectory(directory / f"seed{seed}")
        if run_directory.summary() is None:
            _log.info("%s, seed %d", experiment.config, seed)
            full = [sys.executable, *command, f"--config.seed={seed}", "--workdir", os.fspath(run_directory.path)]
            code = subprocess.run(full, env=environment, check=False).returncode
            if code:
                raise TrainingError(f"{experiment.config}, seed {seed}: exit code {code}; run again to resume")
        summaries.append(run_directory.summary())
        for figure in experiment.figures:
            try:
                figures[figure.what].append(figure.read(run_directory.metrics()))
            except (StopIteration, ZeroDivisionError):  # no such line in a run that is shorter
                if not flags:
                    raise
    last = summaries[-1]
    return {
        "command": "python " + " ".join(command),
        "figures": {what: values for what, values in figures.items() if values},
        **{name: [summary[name] for summary in summaries] for name in _TIMES},
        **{name: last[name] for name in ("device", "versions", "git_commit")},
        "data": {name: last["data"][name] for name in ("name", "checksum")},  # not its place on this machine
    }


def found(config: str) -> str:
    """Returns ``FILE.py[:variant]`` where the file is, and ``NAME[:variant]`` elsewhere than in a checkout."""
    path, colon, variant = config.partition(":")
    return config if Path(path).exists() else f"{Path(path).stem}{colon}{variant}"


def table(results: dict[str, Any]) -> str:
    """Returns the results as a page of Markdown."""
    lines = [
        "# Results",
        "",
        "Written by `python -m rnnjax.reproduce`, which runs the command of a line once a seed. Ours is the mean and",
        "standard deviation over the seeds, the difference is ours less what must be reached; the time is the median",
        "of whole runs, with compiling, evaluation and checkpoints; steps/s is without compiling the training steps,",
        "but with evaluation and its compiling. The device of every line is in the second table.",
        "",
        "| experiment | figure | source | ours | seeds | must reach | difference | reached | s a run | steps/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(name, figure, results) for name in EXPERIMENTS for figure in EXPERIMENTS[name].figures]
    lines += ["", "| experiment | command | device | versions | commit | data |", "|---|---|---|---|---|---|"]
    lines += [_provenance(name, results[name]) for name in EXPERIMENTS if name in results]
    return "\n".join(lines) + "\n"


def row(name: str, figure: Figure, results: dict[str, Any]) -> str:
    """Returns the line of the table for a figure of an experiment."""
    must = "" if figure.target is None else f"{'≥' if figure.higher else '≤'} {figure.target:g}"
    result = results.get(name, {"figures": {}})
    values = result["figures"].get(figure.what)
    if values is None:
        return _line(name, figure.what, figure.source, "not measured", "", must, "", "", "", "")
    mean = statistics.mean(values)
    difference = reached = ""
    if figure.target is not None:
        difference = f"{mean - figure.target:+.4f}"
        reached = "yes" if (mean >= figure.target if figure.higher else mean <= figure.target) else "**no**"
    # Left out by hand where other work on the machine has made them meaningless.
    times = [f"{statistics.median(result[name]):.0f}" if name in result else "" for name in _TIMES]
    ours = f"{mean:.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else f"{mean:.4f}"
    return _line(name, figure.what, figure.source, ours, str(len(values)), must, difference, reached, *times)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _provenance(name: str, result: dict[str, Any]) -> str:
    device, versions = result["device"], result["versions"]
    packages = [package for package in ("python", "jax", "flax", "optax") if package in versions]
    shown = ", ".join(f"{package} {versions[package]}" for package in packages)
    data = f"{result['data']['name']}, sha256 {result['data']['checksum'][:12]}"
    where = f"{device['count']} x {device['kind']} ({device['platform']})"
    return _line(name, f"`{result['command']}`", where, shown, str(result["git_commit"]), data)


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
