"""Generates with a trained run: ``python -m rnnjax.generate DIR [--prompt ...] [--length N] [--temperature X]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rnnjax.cache import keep_compilations
from rnnjax.commands import data_named_by, end, exit_code, require_packages, run_parser
from rnnjax.errors import DataError
from rnnjax.flag_parser import FlagParser, truth


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name; prints what the run's task yields, line by line.

    Raises:
      ConfigError: for options that the run's task has not, or numbers out of their ranges, or a task that generates
        nothing.
      DataError, CheckpointError: if the run's data or checkpoints cannot be read.
    """
    options = parse(arguments)
    require_packages()
    from rnnjax.runs import generated, streamed
    from rnnjax.training.directory.opened import open_run

    keep_compilations()
    with data_named_by("--data"):
        run = open_run(options.directory, options.checkpoint, options.data, trusted=options.trust)
        given, lines = task_options(options, run.task), input_lines(sys.stdin)
        if options.stream:
            said = streamed(run, given, "--", lines)
        else:
            said = generated(run, given, {"lines": lines, "plots": run.directory.plots}, "--")
        for line in said:
            print(line, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = run_parser(
        "generate",
        "With a trained run continues text or a series, translates the lines of the standard input, or labels the "
        "sequences of a file.",
    )
    about = "answer each line by what follows it and the lines before; NAME<tab>LINE for several streams"
    parser.add_argument("--stream", action="store_true", help=about)
    for name, kind, about in _OPTIONS:
        parser.add_argument(f"--{name}", type=kind, help=about, default=argparse.SUPPRESS)
    options, options.own = parser.parse_known_args(arguments)
    return options


# Each for the tasks that have it: a task's own `generate` says which those are, and has the defaults.
_OPTIONS = (
    ("prompt", str, "what to continue"),
    ("length", int, "steps to generate (default: 300)"),
    ("temperature", float, "of sampling; 0 is greedy (default: 1)"),
    ("top-k", int, "sample among the K likeliest"),
    ("top-p", float, "sample among the likeliest that make up probability P"),
    ("seed", int, "of sampling (default: 0)"),
    ("beam-size", int, "width of the beam where one is used (default: 4)"),
    ("n-best", int, "results of a line (default: 1)"),
)


def task_options(options: argparse.Namespace, task: Any) -> dict[str, Any]:
    """Returns those of a command's options that are for the task, with such as no other task has."""
    from rnnjax.tasks.options import options_of

    shared = [name.replace("-", "_") for name, *_ in _OPTIONS]
    ways = [way for way in (task.generate, task.stream and task.stream.say) if way]
    defaults = {name: default for way in ways for name, default in options_of(way).items() if name not in shared}
    parser = FlagParser()
    for name, default in defaults.items():
        kind = str if default is None else type(default)
        read = truth if kind is bool else kind
        parser.add_argument(f"--{name.replace('_', '-')}", type=read, default=argparse.SUPPRESS)
    own = parser.parse_args(options.own)
    return {name: value for name, value in vars(options).items() if name in shared} | vars(own)


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


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
