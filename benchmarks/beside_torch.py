"""Training beside PyTorch's: ``python -m benchmarks.beside_torch [mnist:lstm150] [--methods auto scan fused ...]``.

How many images a second does training take by `configs/mnist.py`, or words by `configs/ptb.py`, in each of several ways
of unrolling, and how many by a straightforward PyTorch model of the same sizes, its data on the same device, taking
turns with it in one process?
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import command, engine, report, timing
from benchmarks.pytorch import Classifier, torch_device, torch_module, train_epoch
from benchmarks.report import Column
from benchmarks.subjects import METHODS, on_this_device
from configs import mnist, ptb
from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze
from rnnjax.data.dataset import Arrays
from rnnjax.parallel.mesh import provide_cpu_devices
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task

Call = Callable[[], Any]

CONFIGS: dict[str, Any] = {
    **{f"mnist:{name}": mnist.VARIANTS[name] for name in ("lstm150", "rnn150", "gru150")},
    **{f"ptb:{name}": ptb.VARIANTS[name] for name in ("small", "medium", "large")},
}
_STEPS_OF_TEXT = 20

_EPILOG = """\
A call takes so many steps, from the state that the one before it left. Contenders take turns; times are medians with
their quartiles. "PyTorch / it" is PyTorch's time over the contender's in the same turn, the median of the turns.
"""


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


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and writes.

    Raises:
      ConfigError: if PyTorch is not installed; DataError: if the data is not found.
    """
    options, torch = parse(arguments), torch_module()
    provide_cpu_devices()
    config = config_of(options)
    task, device = build_task(config), torch_device()
    is_text, epoch = options.config.startswith("ptb"), engine.steps_in_epoch(task, config)
    options.steps = min(epoch, options.steps or (_STEPS_OF_TEXT if is_text else epoch))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # products may be in TF32, as JAX's
    unit, count = ("words", config.batch_size * config.window) if is_text else ("images", config.batch_size)
    about = (
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads\n"
        f"{options.config}: calls of {options.steps} steps, {count} {unit} a step"
    )
    torch_call, examples = torch_text if is_text else torch_images, task.data.splits["train"]
    makers = makers_of_rnnjax(task, config, options.methods, options.steps)
    makers["PyTorch"] = lambda: torch_call(examples, config, options.steps, device)
    on = report.machine() | {"torch": torch.__version__}
    report.show(options, columns(unit), measure(makers, options, count), on=on, about=about)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "Images or words a second of training, beside PyTorch."
    parser = command.FiguresParser("beside_torch", what, _EPILOG, steps=1, repeats=1)
    add, count = parser.add_argument, command.at_least_one
    add("config", nargs="?", choices=CONFIGS, default="mnist:lstm150", metavar="CONFIG", help=", ".join(CONFIGS))
    add("--data", metavar="PATH", help="folder of the original files; else RNNJAX_DATA")
    add("--steps", type=count, help=f"training steps of a call; an epoch's of images, {_STEPS_OF_TEXT} of words")
    add("--repeats", type=count, default=5, help="calls of each; 5")
    ways = f"ways of unrolling, of auto, {', '.join(METHODS)}; auto, as in training"
    add("--methods", nargs="+", choices=["auto", *METHODS], default=["auto"], metavar="METHOD", help=ways)
    return parser.options(arguments)


def config_of(options: argparse.Namespace) -> Any:
    """Returns the config that is named, of the data that is."""
    config = copy.deepcopy(CONFIGS[options.config])
    config.data.path = options.data
    return freeze(config)


def makers_of_rnnjax(
    task: Task, config: TrainConfig, methods: Sequence[str], steps: int
) -> dict[str, Callable[[], Call]]:
    """Returns what makes the call of each way of unrolling; "auto" is the one that training takes by itself."""

    def maker(name: str) -> Callable[[], Call]:
        method = None if name == "auto" else on_this_device(METHODS[name])
        return lambda: engine.epoch_call(task, config, method, steps)

    return {"rnnjax" if name == "auto" else f"rnnjax {name}": maker(name) for name in methods}


def torch_images(examples: Arrays, config: mnist.Config, steps: int, device: str) -> Call:
    """Returns a call that trains so many steps of an epoch with PyTorch, in a new order each time."""
    cell, torch = config.cell, torch_module()
    model = Classifier(cell.kind, (28, cell.hidden_size, cell.layers, 10), config.optimizer.learning_rate, device)
    train = {name: values[: steps * config.batch_size] for name, values in examples.items()}
    images = torch.from_numpy(train["image"].copy()).to(device)
    labels = torch.from_numpy(train["label"].copy()).long().to(device)
    return lambda: train_epoch(model, images, labels, config.batch_size)


def torch_text(examples: Arrays, config: ptb.Config, steps: int, device: str) -> Call:
    """Returns a call that takes so many steps with PyTorch: clipped SGD, the state carried and detached."""
    torch = torch_module()
    torch.manual_seed(config.seed)
    layers, loss_of = torch_language_model(config, device), torch.nn.CrossEntropyLoss()
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


def torch_language_model(config: ptb.Config, device: str) -> Any:
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


if __name__ == "__main__":
    command.run(main, shares_device=True)
