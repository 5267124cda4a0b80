"""What benchmarks of a task's training beside PyTorch share: flags, turns of all contenders, the table, the file."""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from benchmarks import report, timing
from benchmarks.training import METHODS, rnnjax_calls, torch_module, working
from rnnjax.commands import exit_code
from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze
from rnnjax.parallel.mesh import provide_cpu_devices
from rnnjax.tasks.task import Task

C = TypeVar("C", bound=TrainConfig)
COLUMNS = (
    report.Column("low", 9),
    report.Column("high", 9),
    report.Column("a step", 8),
    report.Column("runs", 4),
)


class Turns(NamedTuple):
    """Seconds of each contender's calls, which took turns, and what those that do not work say."""

    times: dict[str, list[float]]
    reasons: dict[str, str]


def parser(name: str, description: str, variants: Sequence[str], default: str, repeats: int) -> report.Parser:
    """Returns a parser of the flags that every such benchmark has."""
    parser = report.Parser(f"python -m benchmarks.{name}", description=f"{description}, beside PyTorch.")
    add = parser.add_argument
    add("--variant", choices=variants, default=default)
    add("--data", metavar="PATH", help="folder of the original files; else RNNJAX_DATA")
    add("--repeats", type=report.at_least_one, default=repeats, help=f"calls of each; {repeats}")
    ways = f"ways of unrolling, of {', '.join(METHODS)}; auto, as in training"
    add("--methods", nargs="+", choices=METHODS, default=["auto"], metavar="METHOD", help=ways)
    add("--json", type=report.output_path, metavar="PATH")
    return parser


def task_of(options: argparse.Namespace, variants: Mapping[str, C], build: Callable[[C], Task]) -> tuple[Task, C]:
    """Returns the task of the variant that is asked for, and its config.

    Raises:
      ConfigError: if PyTorch is not installed; DataError: if the data is not found.
    """
    torch_module()
    provide_cpu_devices()
    config = copy.deepcopy(variants[options.variant])
    config.data.path = options.data
    config = freeze(config)
    return build(config), config


def turns(
    options: argparse.Namespace, task: Task, config: TrainConfig, steps: int, torch_call: Callable[[], Any]
) -> Turns:
    """Returns how long calls of so many training steps take, unrolled in every way that is asked for, and PyTorch's."""
    calls = rnnjax_calls(task, config, options.methods, steps)
    able, reasons = working(calls | {"PyTorch": torch_call})
    return Turns(timing.interleave(able, repeats=options.repeats), reasons)


def print_table(columns: Sequence[report.Column], rows: Iterable[list[object]], reasons: Mapping[str, str]) -> None:
    """Prints a line a contender, and what those that do not work say."""
    print(report.title_line(columns))
    for cells in (*rows, *([name, reason] for name, reason in reasons.items())):
        print(report.line(columns, cells))


def write(options: argparse.Namespace, machine: dict[str, Any], steps: int, **figures: Any) -> None:
    """Writes what was measured to the file that is asked for, if one is."""
    if options.json:
        settings = {"variant": options.variant, "steps": steps, "torch": torch_module().__version__}
        report.write_json(options.json, machine=machine, settings=settings, **figures)


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs a benchmark as a command."""
    # JAX would take most of a GPU's memory at its start, and PyTorch needs some of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sys.exit(exit_code(main, sys.argv[1:]))
