"""The published figures that are reproduced: what is run, what is read off it, and what the source says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Rows = Sequence[dict[str, Any]]


class Figure(NamedTuple):
    """A number read off a run.

    Attributes:
      what: its name in the table.
      read: computes it from the lines of `metrics.jsonl`.
      source: the published figure, as text.
      target: what ours must reach, None where nothing was published; `higher` says in which direction.
    """

    what: str
    read: Callable[[Rows], float]
    source: str
    target: float | None
    higher: bool = True


class Experiment(NamedTuple):
    """A config, as the training command takes it, and the figures to read off."""

    config: str
    figures: tuple[Figure, ...]


def final(split: str, metric: str) -> Callable[[Rows], float]:
    """Returns a reader of a metric at the end of the run."""

    def read(rows: Rows) -> float:
        return next(row[metric] for row in reversed(rows) if row["split"] == split)

    return read


def last_steps(metric: str, count: int) -> Callable[[Rows], float]:
    """Returns a reader of a training metric's mean over the last `count` steps, in whole lines of the log."""

    def read(rows: Rows) -> float:
        train = [row for row in rows if row["split"] == "train"]
        total, steps = 0.0, 0
        for before, row in reversed(list(zip([{"step": 0}, *train], train))):
            if steps >= count:
                break
            total += row[metric] * (row["step"] - before["step"])
            steps += row["step"] - before["step"]
        return total / steps

    return read


def _validation(source: str, target: float | None) -> Figure:
    return Figure("validation accuracy", final("validation", "accuracy"), source, target)


def _test(target: float | None) -> Figure:
    return Figure("test accuracy", final("test", "accuracy"), "none", target)


def _training_loss(source: str, target: float) -> Figure:
    return Figure("training loss, last 250 steps", last_steps("loss", 250), source, target, higher=False)


EXPERIMENTS = {
    "mnist_rnn150": Experiment(
        "configs/mnist.py:rnn150",
        (_validation("0.9730, one run; rerun on TensorFlow 2.15.1: 0.9622, 0.9624, 0.9640", 0.963), _test(None)),
    ),
    "mnist_rnn31": Experiment(
        "configs/mnist.py:rnn31",
        (_training_loss("0.302", 0.302), _validation("0.8914, rerun on TensorFlow 2.15.1", 0.900), _test(None)),
    ),
    "mnist_rnn31x3": Experiment(
        "configs/mnist.py:rnn31x3",
        (_training_loss("0.167", 0.167), _validation("0.9606, rerun on TensorFlow 2.15.1", 0.960), _test(None)),
    ),
    "mnist_lstm150": Experiment("configs/mnist.py:lstm150", (_test(0.98),)),
    "mnist_lstm150_peephole": Experiment("configs/mnist.py:lstm150_peephole", (_test(None),)),
    "mnist_gru150": Experiment("configs/mnist.py:gru150", (_test(0.98),)),
    "mnist_rnn128": Experiment("configs/mnist.py:rnn128", (_test(None),)),
    "mnist_rnn150_long": Experiment("configs/mnist.py:rnn150_long", (_validation("none", None), _test(None))),
    "mnist_embedded": Experiment("configs/mnist.py:embedded", (_test(0.93),)),
}
