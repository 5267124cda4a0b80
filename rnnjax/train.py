"""Trains: ``python -m rnnjax.train --config configs/mnist.py[:variant] [--config.FIELD=VALUE ...] [--workdir DIR]``.

With ``--init_from RUN[:best|last]`` it begins with the parameters of another run, and its vocabulary where it has one;
what ``--config.frozen=PATTERN`` names is not trained. ``python -m rnnjax.train --extend RUN --by EPOCHS [--data PATH]
[--workdir DIR]`` goes on with a complete run, from its whole state, in another directory.

``--profile DIR`` writes a trace of a few training steps, once they are compiled, by JAX's profiler.

Of several processes each is started with ``--coordinator HOST:PORT --process_id I --processes N`` and the same DIR;
Slurm, Open MPI and Kubernetes say the three themselves.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnjax.cache import keep_compilations
from rnnjax.commands import HELP, data_named_by, end, exit_code, help_of_config, require_packages, resumable
from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.metric_names import numbers, of_task

if TYPE_CHECKING:
    from rnnjax.training.ancestor import Parent

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError, DataError, CheckpointError, TrainingError: as `rnnjax.training.loop.train`.
      DirectoryInUse: if another run writes in the work directory.
      ClusterError: if other processes of the run cannot be reached, or are gone.
      SystemExit: with code 75 if a signal stopped it, after a checkpoint.
    """
    require_packages()
    from rnnjax.config_flags import read_config
    from rnnjax.parallel.distributed import joined, missed_by_others, read_cluster
    from rnnjax.parallel.mesh import provide_cpu_devices
    from rnnjax.training.ancestor import read_extension, read_parent
    from rnnjax.training.directory.run_directory import new_directory
    from rnnjax.training.profile import read_profile

    if HELP & set(arguments):
        print(help_of_config(str(__doc__), [argument for argument in arguments if argument not in HELP]))
        return
    provide_cpu_devices()  # before any module that the config names can use them
    cluster, arguments = read_cluster(arguments)
    with missed_by_others(cluster):
        profile, arguments = read_profile(arguments)
        extension, workdir = read_extension(arguments)
        if extension is not None:
            config, parent = extension.config, extension.parent
            name = f"{Path(parent.directory).name}-extended"
        else:
            parent, arguments = read_parent(arguments)
            config, name, workdir = read_config(arguments)
        require(cluster is None or workdir is not None, "several processes need --workdir, a directory that all reach")
    keep_compilations()
    flag = "--config.data.path" if extension is None else "--data"
    with joined(cluster, config), data_named_by(flag):
        train_or_go_on(config, workdir or new_directory(name), parent, profile)


def train_or_go_on(
    config: TrainConfig, directory: Path, parent: Parent | None = None, profile: Path | None = None
) -> None:
    """Trains in a run directory, from its last checkpoint if it has one, and prints the report.

    Args:
      config: the config.
      directory: the run directory.
      parent: with which other run it is to begin.
      profile: where a trace of a few training steps is to be written.
    """
    from rnnjax.config_group import to_dict
    from rnnjax.parallel.distributed import is_writer
    from rnnjax.training.ancestor import ancestor_of
    from rnnjax.training.directory.run_directory import RunDirectory
    from rnnjax.training.loop import train
    from rnnjax.training.opening import opened, task_of_all

    run = RunDirectory(directory, writes=is_writer())
    with opened(run, to_dict(config), None if parent is None else parent.as_json()) as summary:
        _log.info("run directory: %s", run.path)
        if summary is not None:
            _log.info("this run is complete; nothing is left to do")
        else:
            ancestor = ancestor_of(run, parent)
            kept = run.kept() if ancestor is None else ancestor.kept_for(config)
            task = task_of_all(config, kept)
            _log.info("data: %s", task.data.source)
            with resumable(run.path):
                summary = train(task, config, run, ancestor, profile=profile)
    if run.writes:
        print(report(summary))


def report(summary: dict[str, Any]) -> str:
    """Returns the summary in a few lines."""
    final, device = summary["final"], summary["device"]
    lines = [
        f"{split:<11}" + "  ".join(f"{name} {value:.4f}" for name, value in of_task(numbers(final[split])).items())
        for split in ("train", "validation", "test")
        if split in final
    ]
    lines.append(
        f"{summary['seconds']:.1f} s, {summary['steps_per_second']:.1f} steps/s, "
        f"{summary['compile_seconds']:.1f} s compiling, on {device['count']} x {device['kind']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
