"""An epoch of MNIST beside PyTorch's: ``python -m benchmarks.mnist``.

How long does an epoch of `configs/mnist.py` take in training, in each of several ways of unrolling, and how long an
epoch of the same model written for PyTorch (`benchmarks.torch_mnist`), its data on the same device?
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import report, timing
from benchmarks.training import METHODS, rnnjax_calls, torch_device, torch_module, working
from configs.mnist import get_config
from rnnjax.commands import exit_code
from rnnjax.config_group import freeze
from rnnjax.parallel.mesh import provide_cpu_devices
from rnnjax.tasks.mnist import Config, build
from rnnjax.tasks.task import Task
from rnnjax.training.batches import epoch_steps

_VARIANTS = ("rnn150", "lstm150", "gru150")
_COLUMNS = (
    report.Column("model", 16, left=True),
    report.Column("an epoch", 9),
    report.Column("low", 9),
    report.Column("high", 9),
    report.Column("a step", 8),
    report.Column("runs", 4),
)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: if PyTorch is not installed; DataError: if MNIST is not found.
    """
    options = parse(arguments)
    torch_module()
    provide_cpu_devices()
    config = get_config(options.variant)
    config.data.path = options.data
    config = freeze(config)
    task = build(config)
    steps = min(epoch_steps(task, config.batch_size), options.steps or sys.maxsize)
    calls = rnnjax_calls(task, config, options.methods, steps)
    able, reasons = working(calls | {"PyTorch": torch_epoch(task, config, steps)})
    times = timing.interleave(able, repeats=options.repeats)
    machine, spreads = report.machine(), {name: timing.spread(seconds) for name, seconds in times.items()}
    print(
        f"{report.header(machine)}\nPyTorch {torch_module().__version__}\n{options.variant}: {steps} steps an epoch\n"
    )
    print(report.title_line(_COLUMNS))
    for name, spread in spreads.items():
        seconds = [report.si(value, "s") for value in (*spread, spread.median / steps)]
        print(report.line(_COLUMNS, [name, *seconds, len(times[name])]))
    for name, reason in reasons.items():
        print(report.line(_COLUMNS, [name, reason]))
    if options.json:
        rows = {name: spread._asdict() for name, spread in spreads.items()}
        settings = {"variant": options.variant, "steps": steps, "torch": torch_module().__version__}
        report.write_json(options.json, machine=machine, settings=settings, seconds=rows, reasons=reasons)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = report.Parser("python -m benchmarks.mnist", description="Seconds of an epoch of MNIST, beside PyTorch.")
    add = parser.add_argument
    add("--variant", choices=_VARIANTS, default="lstm150")
    add("--data", metavar="PATH", help="folder of the original files; else RNNJAX_DATA")
    add("--steps", type=report.at_least_one, help="steps that are taken for an epoch; all of it")
    add("--repeats", type=report.at_least_one, default=5, help="epochs of each; 5")
    ways = f"ways of unrolling, of {', '.join(METHODS)}; auto, as in training"
    add("--methods", nargs="+", choices=METHODS, default=["auto"], metavar="METHOD", help=ways)
    add("--json", type=report.output_path, metavar="PATH")
    return parser.parse_args(arguments)


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
    # JAX would take most of a GPU's memory at its start, and PyTorch needs some of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sys.exit(exit_code(main, sys.argv[1:]))
