"""Training speed on the Penn Treebank beside PyTorch's: ``python -m benchmarks.language_model``.

How many words per second does `configs/ptb.py` train on, and how many does a straightforward PyTorch model of the same
sizes (`nn.Embedding`, `nn.LSTM`, `nn.Linear`, cross-entropy, clipped SGD, the state carried and detached), on the same
device, taking turns with it in one process? With `--methods`, so in each of several ways of unrolling.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import beside_torch, command
from benchmarks.pytorch import torch_module
from configs.ptb import VARIANTS
from rnnjax.data.dataset import Arrays
from rnnjax.tasks.language_model import Config


def main(arguments: Sequence[str]) -> None:
    beside_torch.compare(QUESTION, parse(arguments))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    return beside_torch.parse(QUESTION, arguments)


def torch_steps(examples: Arrays, config: Config, steps: int, device: str) -> Callable[[], Any]:
    """Returns a call that takes so many steps with PyTorch."""
    torch = torch_module()
    torch.manual_seed(config.seed)
    layers, loss_of = torch_model(config, device), torch.nn.CrossEntropyLoss()
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.SGD(parameters, config.optimizer.learning_rate)
    rows = examples["tokens"][: steps * config.batch_size].astype(np.int64)
    batches = torch.from_numpy(rows).reshape(steps, config.batch_size, -1).to(device)

    def step(tokens: Any, state: Any) -> Any:
        embedding, lstm, softmax, dropout = layers
        optimizer.zero_grad()
        ys, state = lstm(dropout(embedding(tokens[:, :-1])), state)
        loss = loss_of(softmax(dropout(ys)).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
        optimizer.step()
        return loss.detach(), tuple(part.detach() for part in state)

    def call() -> float:
        state: Any = None
        loss: Any = None
        for tokens in batches:
            loss, state = step(tokens, state)
        return float(loss)  # waits for the device

    return call


def torch_model(config: Config, device: str) -> Any:
    """Returns the layers of the same model: embedding, LSTM, softmax layer and dropout."""
    nn, size = torch_module().nn, config.cell.hidden_size
    vocabulary, rate = config.data.vocabulary_size, config.output_dropout
    layers = nn.ModuleList(
        [
            nn.Embedding(vocabulary, config.embedding_size),
            nn.LSTM(config.embedding_size, size, config.cell.layers, batch_first=True, dropout=rate),
            nn.Linear(size, vocabulary),
            nn.Dropout(rate),
        ]
    )
    for parameter in layers.parameters():
        nn.init.uniform_(parameter, -(config.init_scale or 0.1), config.init_scale or 0.1)
    return layers.to(device)


QUESTION = beside_torch.Question(
    name="language_model",
    variants=VARIANTS,
    offered=("small", "medium", "large"),
    torch_call=torch_steps,
    steps=20,
    repeats=15,
    of_step=("words", lambda config: config.batch_size * config.window),
)

if __name__ == "__main__":
    command.run(main, shares_device=True)
