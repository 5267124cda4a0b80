"""Trains many small runs at once, seeds times values: ``python -m rnnjax.sweep --config configs/mnist.py[:variant]
--seeds N [--config.FIELD=VALUE[,VALUE ...] ...] [--at-once N] [--keep best|all|none] [--ray] [--workdir DIR]``.

A field with several values is swept over, several such fields in every combination, each with the seeds from
config.seed on. Values that have commas in them are parted by semicolons, as in
--config.cell.wrappers="dropout,residual;dropout;none"; without one, a field that is a list, such as that or
--config.data.features, has a single value, as in training.
Runs that differ in the seed and in numbers of the optimiser are trained by one compiled program, at most N of them with
--at-once; those that differ in more follow one after the other. So do seeds from which the data is made, as in
configs/sequences.py, unless --config.data.seed gives all of them the same. Every run is what `python -m rnnjax.train`
makes of its config on one device. Of the best run of every program, or of all with --keep all, the parameters are kept:
commands and `load_run` take DIR/best, or DIR/N for run N. The same command with more seeds or values, in the directory
of a sweep, trains what is new and leaves what is there. With --ray each program is a task of a Ray cluster, or of
this machine where there is none.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from rnnjax.cache import keep_compilations
from rnnjax.commands import HELP, end, exit_code, help_of_config, require_packages, resumable
from rnnjax.flag_parser import FlagParser

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError, DataError, CheckpointError: as `rnnjax.training.sweeps.sweep.sweep`.
      SystemExit: with code 75 if a signal stopped it, after a checkpoint.
    """
    require_packages()
    from rnnjax.parallel.mesh import provide_cpu_devices
    from rnnjax.training.directory.run_directory import RunDirectory, new_directory
    from rnnjax.training.sweeps.grid import one_of_each, read_grid
    from rnnjax.training.sweeps.growth import grown
    from rnnjax.training.sweeps.ray_groups import ray_trainer
    from rnnjax.training.sweeps.report import table
    from rnnjax.training.sweeps.sweep import sweep, train_in_turn

    if HELP & set(arguments):
        _, rest = parse([argument for argument in arguments if argument not in HELP])
        print(help_of_config(str(__doc__), one_of_each(rest)))
        return
    options, rest = parse(arguments)
    provide_cpu_devices()  # before any module that the config names can use them
    grid, name, workdir = read_grid(rest, options.seeds, options.at_once, options.keep)
    train_left = ray_trainer() if options.ray else train_in_turn
    keep_compilations()
    directory = RunDirectory(workdir or new_directory(f"{name}-sweep"))
    grown(grid, directory)  # refuses the directory of another sweep before anything is said
    _log.info("work directory: %s", directory.path)
    with resumable(directory.path):
        results = sweep(grid, directory, train_left)
    print(table(results))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of a sweep, and the arguments that are left: those of the config.

    Raises:
      ConfigError: for a value of the wrong type.
    """
    parser = FlagParser()
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--keep", default="best")
    parser.add_argument("--ray", action="store_true")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
