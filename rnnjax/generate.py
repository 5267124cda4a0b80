"""Generates with a trained run: ``python -m rnnjax.generate DIR [--prompt ...] [--length N] [--temperature X]``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rnnjax.cache import keep_compilations
from rnnjax.commands import end, exit_code, require_packages, run_parser
from rnnjax.errors import ConfigError, DataError

_MOST_STEPS = 1_000_000  # all are the result of one program, which is held in memory
_MOST_BEAMS = 1000
_LOWEST_TEMPERATURE = 1e-4  # below it, logits divided by the temperature may overflow


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name; prints what the run's task yields, line by line.

    Raises:
      ConfigError: for invalid numbers, or a run whose task generates nothing.
      DataError, CheckpointError: if the run's data or checkpoints cannot be read.
    """
    options = parse(arguments)
    check(options)
    require_packages()
    from rnnjax.tasks.task import Request
    from rnnjax.training.evaluation import methods_of_run, restored_params
    from rnnjax.unrolling.auto import using

    keep_compilations()
    task, params, run = restored_params(options.directory, options.checkpoint, options.data, trusted=options.trust)
    if task.generate is None:
        raise ConfigError(f"the task of {options.directory} generates nothing; evaluate it with rnnjax.evaluate")
    fields = {name: value for name, value in vars(options).items() if name in Request._fields}
    with using(methods_of_run(run)):
        for line in task.generate(params, Request(**fields, lines=input_lines(sys.stdin), plots=run.plots)):
            print(line, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = run_parser(
        "generate", "Continues text or a series, or translates the lines of the standard input, with a trained run."
    )
    parser.add_argument("--prompt", help="what to continue")
    parser.add_argument("--length", type=int, default=300, help="steps to generate (default: 300)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of sampling; 0 is greedy (default: 1)")
    parser.add_argument("--top-k", type=int, help="sample among the K likeliest")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest that make up probability P")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default: 0)")
    parser.add_argument("--beam-size", type=int, default=4, help="width of the beam where one is used (default: 4)")
    parser.add_argument("--n-best", type=int, default=1, help="results a line where a beam is used (default: 1)")
    return parser.parse_args(arguments)


def input_lines(stream: Any) -> Iterator[str]:
    """Yields the lines of the standard input without line ends; none if it is closed.

    Raises:
      DataError: for a line that is not text.
    """
    for number, line in enumerate(getattr(stream, "buffer", stream) or (), 1):
        try:
            text = line.decode(stream.encoding) if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            where = f"line {number} of the standard input (at byte {error.start})"
            raise DataError(f"{where} is not text in {stream.encoding}: convert it") from None
        yield text.rstrip("\r\n")


def check(options: Any) -> None:
    """Raises `ConfigError` for invalid numbers."""

    def require(name: str, fits: bool, what: str) -> None:
        if not fits:
            raise ConfigError(f"--{name} must be {what}, got {getattr(options, name.replace('-', '_'))}")

    require("length", 1 <= options.length <= _MOST_STEPS, f"from 1 to {_MOST_STEPS}")
    fits = options.temperature == 0 or _LOWEST_TEMPERATURE <= options.temperature < math.inf
    require("temperature", fits, f"0, or {_LOWEST_TEMPERATURE} or above")
    require("top-k", options.top_k is None or options.top_k >= 1, "at least 1")
    require("top-p", options.top_p is None or 0 < options.top_p <= 1, "above 0 and at most 1")
    require("seed", 0 <= options.seed < 2**32, f"from 0 to {2**32 - 1}")
    require("beam-size", 1 <= options.beam_size <= _MOST_BEAMS, f"from 1 to {_MOST_BEAMS}")
    require("n-best", 1 <= options.n_best <= options.beam_size, f"from 1 to the beam size, {options.beam_size}")


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
