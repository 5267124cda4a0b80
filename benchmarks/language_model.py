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

from benchmarks import beside_torch, report, timing
from benchmarks.training import torch_device, torch_module
from configs.ptb import VARIANTS
from rnnjax.tasks import build_task
from rnnjax.tasks.language_model import Config
from rnnjax.tasks.task import Task

_COLUMNS = (report.Column("model", 16, left=True), report.Column("words/s", 9), *beside_torch.COLUMNS)


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: if PyTorch is not installed; DataError: if the Penn Treebank is not found.
    """
    options = parse(arguments)
    task, config = beside_torch.task_of(options, VARIANTS, build_task)
    times, reasons = beside_torch.turns(options, task, config, options.steps, torch_steps(task, config, options.steps))
    words = options.steps * config.batch_size * config.window
    rows = [row(name, seconds, words, options.steps) for name, seconds in times.items()]
    machine = report.machine()
    print(f"{report.header(machine)}\nPyTorch {torch_module().__version__}, {torch_module().get_num_threads()} threads")
    print(f"{options.variant}: calls of {options.steps} steps, {words // options.steps} words a step\n")
    beside_torch.print_table(_COLUMNS, map(cells, rows), reasons)
    ratios = {name: ratio(times, name) for name in times if name != "PyTorch" and "PyTorch" in times}
    for name, value in ratios.items():
        print(f"{name} trains on {value:.2f} times the words per second of PyTorch (median of turns)")
    beside_torch.write(options, machine, options.steps, rows=rows, ratios=ratios, reasons=reasons)


def ratio(times: dict[str, list[float]], name: str) -> float:
    """Returns PyTorch's time over that of a contender, the median of their turns."""
    return timing.spread([other / own for own, other in zip(times[name], times["PyTorch"])]).median


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = beside_torch.parser(
        "language_model", "Words per second of training", ["small", "medium", "large"], "small", repeats=15
    )
    parser.add_argument("--steps", type=report.at_least_one, default=20, help="training steps of a call; 20")
    return parser.parse_args(arguments)


def row(name: str, seconds: Sequence[float], words: int, steps: int) -> dict[str, Any]:
    """Returns what was measured of a contender: medians, and words per second at the quartiles."""
    spread = timing.spread(seconds)
    return {
        "model": name,
        "words_per_second": words / spread.median,
        "words_per_second_low": words / spread.high,
        "words_per_second_high": words / spread.low,
        "seconds_per_step": spread.median / steps,
        "runs": len(seconds),
    }


def cells(row: dict[str, Any]) -> list[object]:
    """Returns a row as it is printed."""
    speeds = [f"{row[name]:.0f}" for name in ("words_per_second", "words_per_second_low", "words_per_second_high")]
    return [row["model"], *speeds, report.si(row["seconds_per_step"], "s"), row["runs"]]


def torch_steps(task: Task, config: Config, steps: int) -> Callable[[], Any]:
    """Returns a call that does the same with PyTorch, on the processor or on the first CUDA device."""
    torch = torch_module()
    device = torch_device()
    torch.manual_seed(config.seed)
    layers, loss_of = torch_model(config, device), torch.nn.CrossEntropyLoss()
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.SGD(parameters, config.optimizer.learning_rate)
    rows = task.data.splits["train"]["tokens"][: steps * config.batch_size].astype(np.int64)
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


if __name__ == "__main__":
    beside_torch.run(main)
