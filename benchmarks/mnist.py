"""An epoch of MNIST beside PyTorch's: ``python -m benchmarks.mnist``.

How long does an epoch of `configs/mnist.py` take in training, in each of several ways of unrolling, and how long an
epoch of the same model written for PyTorch (`benchmarks.torch_mnist`), its data on the same device?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import beside_torch, report, timing
from benchmarks.training import torch_device, torch_module
from configs.mnist import VARIANTS
from rnnjax.tasks import build_task
from rnnjax.tasks.mnist import Config
from rnnjax.tasks.task import Task
from rnnjax.training.batches import epoch_steps

_COLUMNS = (report.Column("model", 16, left=True), report.Column("an epoch", 9), *beside_torch.COLUMNS)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: if PyTorch is not installed; DataError: if MNIST is not found.
    """
    options = parse(arguments)
    task, config = beside_torch.task_of(options, VARIANTS, build_task)
    steps = min(epoch_steps(task, config.batch_size), options.steps or sys.maxsize)
    times, reasons = beside_torch.turns(options, task, config, steps, torch_epoch(task, config, steps))
    machine, spreads = report.machine(), {name: timing.spread(seconds) for name, seconds in times.items()}
    print(
        f"{report.header(machine)}\nPyTorch {torch_module().__version__}\n{options.variant}: {steps} steps an epoch\n"
    )
    rows = [cells(name, spread, steps, len(times[name])) for name, spread in spreads.items()]
    beside_torch.print_table(_COLUMNS, rows, reasons)
    seconds = {name: spread._asdict() for name, spread in spreads.items()}
    beside_torch.write(options, machine, steps, seconds=seconds, reasons=reasons)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = beside_torch.parser(
        "mnist", "Seconds of an epoch of MNIST", ["rnn150", "lstm150", "gru150"], "lstm150", repeats=5
    )
    parser.add_argument("--steps", type=report.at_least_one, help="steps that are taken for an epoch; all of it")
    return parser.parse_args(arguments)


def cells(name: str, spread: timing.Spread, steps: int, runs: int) -> list[object]:
    """Returns a contender's line of the table."""
    return [name, *(report.si(value, "s") for value in (*spread, spread.median / steps)), runs]


def torch_epoch(task: Task, config: Config, steps: int) -> Callable[[], Any]:
    """Returns a call that trains so many steps of an epoch with PyTorch, in a new order each time."""
    torch, device = torch_module(), torch_device()
    from benchmarks.torch_mnist import Classifier, train_epoch

    model = Classifier(config.cell.kind, config.cell.hidden_size, config.cell.layers).to(device)
    optimizer = torch.optim.Adam(model.parameters(), config.optimizer.learning_rate)
    train = {name: values[: steps * config.batch_size] for name, values in task.data.splits["train"].items()}
    images = torch.from_numpy(train["image"].copy()).to(device)
    labels = torch.from_numpy(train["label"].copy()).long().to(device)
    return lambda: train_epoch(model, optimizer, images, labels, config.batch_size)


if __name__ == "__main__":
    beside_torch.run(main)
