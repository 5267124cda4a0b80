"""Training as a task's command does it, by any way of unrolling, beside PyTorch's: what such benchmarks share."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import command, engine, report, timing
from benchmarks.pytorch import torch_device, torch_module
from benchmarks.report import Column
from benchmarks.subjects import METHODS, on_this_device
from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze
from rnnjax.data.dataset import Arrays
from rnnjax.parallel.mesh import provide_cpu_devices
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task

Call = Callable[[], Any]


class Question(NamedTuple):
    """A task whose training is timed.

    Attributes:
      name: of the benchmark.
      variants: of the task's config, by name; the first of `offered` is the one that is taken.
      offered: those that PyTorch's model is written for.
      torch_call: makes the call that takes so many steps on examples with PyTorch, on a device by its name.
      steps: in a call; None for all of an epoch.
      repeats: calls of each contender.
      of_step: what a step trains on, "images" or "words", and how many of a config.
    """

    name: str
    variants: Mapping[str, Any]
    offered: Sequence[str]
    torch_call: Callable[[Arrays, Any, int, str], Call]
    steps: int | None
    repeats: int
    of_step: tuple[str, Callable[[Any], int]]


class Row(NamedTuple):
    """What was measured of a contender, in seconds; `reason` says why nothing was.

    Attributes:
      model: its name.
      seconds: of a call, the median and the quartiles.
      seconds_per_step: of one step.
      rate: images or words a second.
      ratio: PyTorch's time over its own, the median of the turns.
      runs: number of calls.
    """

    model: str
    seconds: timing.Spread | None = None
    seconds_per_step: float | None = None
    rate: float | None = None
    ratio: float | None = None
    runs: int = 0
    reason: str | None = None


def parse(question: Question, arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the options of such a command."""
    what = f"{question.of_step[0]} a second of training, beside PyTorch."
    parser = command.FiguresParser(question.name, what, steps=1, repeats=1)
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
    task, device = build_task(config), torch_device()
    epoch = engine.steps_in_epoch(task, config)
    options.steps = min(epoch, options.steps or epoch)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # products may be in TF32, as JAX's
    unit, count = question.of_step
    about = (
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads\n"
        f"{options.variant}: calls of {options.steps} steps, {count(config)} {unit} a step"
    )
    makers = makers_of_rnnjax(task, config, options.methods, options.steps)
    makers["PyTorch"] = lambda: question.torch_call(task.data.splits["train"], config, options.steps, device)
    rows = measure(makers, options, count(config))
    on = report.machine() | {"torch": torch.__version__}
    report.show(options, columns(unit), rows, on=on, about=about)


def makers_of_rnnjax(
    task: Task, config: TrainConfig, methods: Sequence[str], steps: int
) -> dict[str, Callable[[], Call]]:
    """Returns what makes the call of each way of unrolling; "auto" is the one that training takes by itself."""

    def maker(name: str) -> Callable[[], Call]:
        method = None if name == "auto" else on_this_device(METHODS[name])
        return lambda: engine.epoch_call(task, config, method, steps)

    return {"rnnjax" if name == "auto" else f"rnnjax {name}": maker(name) for name in methods}


def working(makers: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """Returns the calls that can be made and work, having made each once, and what the others say."""
    able, reasons = {}, {}
    for name, make in makers.items():
        try:
            call = make()
            call()
        except Exception as error:  # a kernel may fail in any way, and the others are to be timed all the same
            reasons[name] = report.in_short(error)
        else:
            able[name] = call
    return able, reasons


def measure(makers: Mapping[str, Callable[[], Call]], options: argparse.Namespace, count: int) -> Iterator[Row]:
    """Yields the rows of all contenders, which took turns; a step trains on `count` images or words."""
    able, reasons = working(makers)
    times = timing.interleave(able, repeats=options.repeats)
    for name, seconds in times.items():
        spread = timing.spread(seconds)
        step = spread.median / options.steps
        ratio = None
        if "PyTorch" in times:
            ratio = timing.spread([beside / own for own, beside in zip(seconds, times["PyTorch"])]).median
        yield Row(name, spread, step, count / step, ratio, len(seconds))
    yield from (Row(name, reason=reason) for name, reason in reasons.items())


def columns(unit: str) -> tuple[Column, ...]:
    """Returns the columns of the table."""
    return (
        Column("model", width=16, left=True),
        Column("a call", "seconds.median", "s", 8),
        Column("low", "seconds.low", "s", 8),
        Column("high", "seconds.high", "s", 8),
        Column("a step", "seconds_per_step", "s", 8),
        Column(f"{unit}/s", "rate", ".0f", 9),
        Column("PyTorch / it", "ratio", ".2f"),
        Column("runs", width=4),
    )
