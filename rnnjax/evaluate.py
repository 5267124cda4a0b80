"""Evaluates a run: ``python -m rnnjax.evaluate DIR [--split SPLIT] [--checkpoint best] [--data PATH] [--trust]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rnnjax.cache import keep_compilations
from rnnjax.commands import data_named_by, end, exit_code, require_packages, run_parser


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name; prints one JSON object.

    Raises:
      ConfigError, DataError, CheckpointError: if DIR holds no run, or its data or checkpoints cannot be read.
    """
    options = parse(arguments)
    require_packages()
    from rnnjax.parallel.mesh import provide_cpu_devices
    from rnnjax.training.evaluation import evaluate_run

    provide_cpu_devices()
    keep_compilations()
    with data_named_by("--data"):
        found = evaluate_run(options.directory, options.split, options.checkpoint, options.data, trusted=options.trust)
    print(json.dumps(found))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = run_parser("evaluate", "Evaluates a trained run.")
    about = "which part of the data (default: test)"
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"], help=about)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
