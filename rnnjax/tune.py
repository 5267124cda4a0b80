"""Measures the methods for a cell on this machine: ``python -m rnnjax.tune --cell LSTM --shape T,B,I,H``.

The fastest method is stored in the user's cache, where `unroll` finds it. The module can be called like the function
`rnnjax.unrolling.tune`, because importing it replaces the function ``rnnjax.tune`` by the module.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from rnnjax.cache import keep_compilations
from rnnjax.commands import end, exit_code
from rnnjax.errors import require
from rnnjax.flag_parser import FlagParser
from rnnjax.unrolling import tune as _tune
from rnnjax.whole_numbers import whole_number

_LARGEST = 2**31 - 1
_DTYPES = ("float32", "bfloat16", "float16")


class _Command(types.ModuleType):
    """A module that can be called like the function of the same name."""

    __signature__ = inspect.signature(_tune)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _tune(*arguments, **options)


sys.modules[__name__].__class__ = _Command


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name; prints a table.

    Raises:
      ConfigError: for an unknown cell, an invalid shape or option, or a file that cannot be written.
    """
    options = parse(arguments)
    length, batch, features, hidden = read_shape(options.shape)
    require(options.layers >= 1, f"--layers must be at least 1, got {options.layers}")
    require(0 <= options.seconds < 3600, f"--seconds must be from 0 to 3600, got {options.seconds}")
    require(options.json is None or options.json.parent.is_dir(), f"--json {options.json} is in no directory")
    from rnnjax.cell_config import CellConfig, build_cell
    from rnnjax.files import write_json

    cell = build_cell(CellConfig(kind=options.cell, layers=options.layers, hidden_size=hidden))
    keep_compilations()
    jax.local_devices()  # where there is none, JAX says so here; in what it compiles it cuts its own frames off
    gradient = not options.forward_only
    report = _tune(cell, (length, batch, features), seconds=options.seconds, dtype=options.dtype, gradient=gradient)
    print(report)
    if options.json is not None:
        write_json(options.json, report.as_json())


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options.

    Raises:
      ConfigError: for an unknown option or an invalid value.
    """
    parser = FlagParser("Measures which method unrolls a cell fastest here.", prog="python -m rnnjax.tune")
    parser.add_argument("--cell", required=True, help="a cell of rnnjax, such as LSTM, or package.module:Class")
    parser.add_argument("--shape", required=True, metavar="T,B,I,H", help="steps, batch, input features, hidden units")
    parser.add_argument("--layers", type=int, default=1, help="layers of a stack (default: 1)")
    parser.add_argument("--dtype", default="float32", choices=_DTYPES, help="of the inputs (default: float32)")
    parser.add_argument("--forward-only", action="store_true", help="measure no gradients")
    parser.add_argument("--seconds", type=float, default=0.3, help="for which each method is timed (default: 0.3)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="file to write the times to as well")
    return parser.parse_args(arguments)


def read_shape(text: str) -> tuple[int, int, int, int]:
    """Returns the four sizes in a text such as ``28,150,28,150``.

    Raises:
      ConfigError: if there are not four whole numbers from 1.
    """
    sizes = [whole_number(part) or 0 for part in text.split(",")]
    fits = len(sizes) == 4 and all(1 <= size <= _LARGEST for size in sizes)
    require(fits, f"--shape must be four whole numbers T,B,I,H from 1, such as 28,150,28,150, got {text!r}")
    return sizes[0], sizes[1], sizes[2], sizes[3]


if __name__ == "__main__":
    end(exit_code(main, sys.argv[1:]))
