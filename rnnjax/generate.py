"""Generates with a trained run: ``python -m rnnjax.generate DIR [--prompt ...] [--length N] [--temperature X]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rnnjax.cache import keep_compilations
from rnnjax.commands import data_named_by, end, exit_code, require_packages, run_parser
from rnnjax.errors import DataError


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name; prints what the run's task yields, line by line.

    Raises:
      ConfigError: for invalid numbers, or a run whose task generates nothing.
      DataError, CheckpointError: if the run's data or checkpoints cannot be read.
    """
    options = parse(arguments)
    require_packages()
    from rnnjax.runs import check_request, generated, streamed
    from rnnjax.tasks.task import Request
    from rnnjax.training.evaluation import open_run

    fields = {name: value for name, value in vars(options).items() if name in Request._fields}
    request = Request(**fields, lines=input_lines(sys.stdin))
    check_request(request, "--")
    keep_compilations()
    with data_named_by("--data"):
        run = open_run(options.directory, options.checkpoint, options.data, trusted=options.trust)
        made = streamed if options.stream else generated
        for line in made(run, request._replace(plots=run.directory.plots), "--"):
            print(line, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = run_parser(
        "generate",
        "With a trained run continues text or a series, translates the lines of the standard input, or labels the "
        "sequences of a file.",
    )
    parser.add_argument("--prompt", help="what to continue")
    about = "answer each line by what follows it and the lines before; NAME<tab>LINE for several streams"
    parser.add_argument("--stream", action="store_true", help=about)
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


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
