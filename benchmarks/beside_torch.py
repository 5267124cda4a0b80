"""Training as a task's command does it, by any way of unrolling, beside PyTorch's: what such benchmarks share."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import command, engine, report, timing
from benchmarks.pytorch import torch_device, torch_module
from benchmarks.subjects import METHODS, on_this_device
from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze
from rnnjax.parallel.mesh import provide_cpu_devices
from rnnjax.tasks.task import Task

Call = Callable[[], Any]


class Question(NamedTuple):
    """A task whose training is timed.

    Attributes:
      name: of the benchmark.
      description: what it measures.
      variants: of the task's config, by name; the first of `offered` is the one that is taken.
      offered: those that PyTorch's model is written for.
      build: makes the task.
      torch_call: makes the call that takes so many steps with PyTorch, on a device by its name.
      steps: in a call; None for all of an epoch.
      repeats: calls of each contender.
      of_step: what a step trains on, "images" or "words", and how many of a config.
    """

    name: str
    description: str
    variants: Mapping[str, Any]
    offered: Sequence[str]
    build: Callable[[Any], Task]
    torch_call: Callable[[Task, Any, int, str], Call]
    steps: int | None
    repeats: int
    of_step: tuple[str, Callable[[Any], int]]


class Row(NamedTuple):
    """What was measured of a contender: seconds of a call, medians and quartiles, or `reason`, why nothing was."""

    model: str
    seconds: timing.Spread | None = None
    steps: int = 0
    rate: float | None = None
    ratio: float | None = None
    runs: int = 0
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the row with the seconds of a step."""
        step = None if self.seconds is None else self.seconds.median / self.steps
        return {**self._asdict(), "seconds_per_step": step}


def parse(question: Question, arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the options of such a command."""
    parser = command.FiguresParser(question.name, f"{question.description}, beside PyTorch.", steps=1, repeats=1)
    add, steps, repeats = parser.add_argument, question.steps, question.repeats
    add("--variant", choices=question.offered, default=question.offered[0])
    add("--data", metavar="PATH", help="folder of the original files; else RNNJAX_DATA")
    add("--steps", type=command.at_least_one, default=steps, help=f"training steps of a call; {steps or 'an epoch'}")
    add("--repeats", type=command.at_least_one, default=repeats, help=f"calls of each; {repeats}")
    ways = f"ways of unrolling, of auto, {', '.join(METHODS)}; auto, as in training"
    add("--methods", nargs="+", choices=["auto", *METHODS], default=["auto"], metavar="METHOD", help=ways)
    return parser.options(arguments)


def compare(question: Question, options: argparse.Namespace) -> None:
    """Measures, prints and writes.

    Raises:
      ConfigError: if PyTorch is not installed; DataError: if the data is not found.
    """
    torch = torch_module()
    provide_cpu_devices()
    config = copy.deepcopy(question.variants[options.variant])
    config.data.path = options.data
    config = freeze(config)
    task, device = question.build(config), torch_device()
    options.steps = min(engine.steps_in_epoch(task, config), options.steps or task.examples("train"))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # products may be in TF32, as JAX's
    calls = rnnjax_calls(task, config, options.methods, options.steps)
    calls["PyTorch"] = question.torch_call(task, config, options.steps, device)
    unit, count = question.of_step
    about = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads\n{options.variant}: calls of "
    about += f"{options.steps} steps, {count(config)} {unit} a step"
    table = report.Table(columns(unit), cells)
    rows = measure(calls, options, count(config))
    on = report.machine() | {"torch": torch.__version__}
    report.show(options, table, rows, on=on, about=about)


def rnnjax_calls(task: Task, config: TrainConfig, methods: Sequence[str], steps: int) -> dict[str, Call]:
    """Returns a call for each way of unrolling; "auto" is the one that training takes by itself."""

    def lazily(name: str) -> Call:
        made: list[Call] = []

        def call() -> Any:
            if not made:  # only now, so that what a method cannot do is said when it is called
                method = None if name == "auto" else on_this_device(METHODS[name])
                made.append(engine.epoch_call(task, config, method, steps))
            return made[0]()

        return call

    return {"rnnjax" if name == "auto" else f"rnnjax {name}": lazily(name) for name in methods}


def working(calls: Mapping[str, Call]) -> tuple[dict[str, Call], dict[str, str]]:
    """Returns the calls that work, having made each once, and what the others say."""
    able, reasons = {}, {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # a kernel may fail in any way, and the others are to be timed all the same
            reasons[name] = report.in_short(error)
        else:
            able[name] = call
    return able, reasons


def measure(calls: Mapping[str, Call], options: argparse.Namespace, count: int) -> Iterator[Row]:
    """Yields the rows of all contenders, which took turns; a step trains on `count` examples or words."""
    able, reasons = working(calls)
    times = timing.interleave(able, repeats=options.repeats)
    for name, seconds in times.items():
        yield row(name, seconds, times.get("PyTorch"), options.steps, count)
    yield from (Row(name, reason=reason) for name, reason in reasons.items())


def row(name: str, seconds: Sequence[float], beside: Sequence[float] | None, steps: int, count: int) -> Row:
    """Returns the row of a contender.

    Args:
      name: its name.
      seconds: of its calls.
      beside: of PyTorch's calls in the same turns.
      steps: in a call.
      count: examples or words in a step.
    """
    spread = timing.spread(seconds)
    ratio = None if beside is None else timing.spread([b / own for own, b in zip(seconds, beside)]).median
    return Row(name, spread, steps, steps * count / spread.median, ratio, len(seconds))


def columns(unit: str) -> tuple[report.Column, ...]:
    """Returns the columns of the table."""
    return (
        report.Column("model", 16, left=True),
        report.Column("a call", 8),
        report.Column("low", 8),
        report.Column("high", 8),
        report.Column("a step", 8),
        report.Column(f"{unit}/s", 9),
        report.Column("PyTorch / it", 12),
        report.Column("runs", 4),
    )


def cells(row: Row) -> list[object]:
    """Returns a row as it is printed."""
    if row.seconds is None:
        return [row.model, row.reason]
    times = [report.si(each, "s") for each in (*row.seconds, row.seconds.median / row.steps)]
    return [row.model, *times, f"{row.rate:.0f}", "" if row.ratio is None else f"{row.ratio:.2f}", row.runs]
