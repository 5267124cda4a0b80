"""An epoch of MNIST beside PyTorch's: ``python -m benchmarks.mnist``.

How long does an epoch of `configs/mnist.py` take in training, in each of several ways of unrolling, and how long an
epoch of the same model written for PyTorch, its data on the same device?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import beside_torch, command
from benchmarks.pytorch import Classifier, torch_module, train_epoch
from configs.mnist import VARIANTS
from rnnjax.data.dataset import Arrays
from rnnjax.tasks.mnist import Config


def main(arguments: Sequence[str]) -> None:
    beside_torch.compare(QUESTION, parse(arguments))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    return beside_torch.parse(QUESTION, arguments)


def torch_epoch(examples: Arrays, config: Config, steps: int, device: str) -> Callable[[], Any]:
    """Returns a call that trains so many steps of an epoch with PyTorch, in a new order each time."""
    cell, torch = config.cell, torch_module()
    model = Classifier(cell.kind, (28, cell.hidden_size, cell.layers, 10), config.optimizer.learning_rate, device)
    train = {name: values[: steps * config.batch_size] for name, values in examples.items()}
    images = torch.from_numpy(train["image"].copy()).to(device)
    labels = torch.from_numpy(train["label"].copy()).long().to(device)
    return lambda: train_epoch(model, images, labels, config.batch_size)


QUESTION = beside_torch.Question(
    name="mnist",
    variants=VARIANTS,
    offered=("lstm150", "rnn150", "gru150"),
    torch_call=torch_epoch,
    steps=None,
    repeats=5,
    of_step=("images", lambda config: config.batch_size),
)

if __name__ == "__main__":
    command.run(main, shares_device=True)
