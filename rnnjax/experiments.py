"""The published figures that are reproduced: configs, metrics, and the figures of the sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Rows = Sequence[dict[str, Any]]


class Figure(NamedTuple):
    """A number that is read from a run's metrics.

    Attributes:
      what: its name in the table.
      read: computes it from the lines of `metrics.jsonl`.
      source: the published figure, as text.
      target: the value that ours must reach; None if nothing was published.
      higher: whether higher values are better.
    """

    what: str
    read: Callable[[Rows], float]
    source: str
    target: float | None
    higher: bool = True


class Experiment(NamedTuple):
    """A config, as the training command takes it, and the figures to read from its runs."""

    config: str
    figures: tuple[Figure, ...]


def final(split: str, metric: str) -> Callable[[Rows], float]:
    """Returns a reader of a metric at the end of the run."""

    def read(rows: Rows) -> float:
        return next(row[metric] for row in reversed(rows) if row["split"] == split)

    return read


def last_steps(metric: str, count: int) -> Callable[[Rows], float]:
    """Returns a reader of a training metric's mean over at least the last `count` steps, in whole lines of the log."""

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


def around(metric: str, first: int, last: int) -> Callable[[Rows], float]:
    """Returns a reader of a training metric's mean over the lines of the log from step `first` to step `last`."""

    def read(rows: Rows) -> float:
        lines = [row[metric] for row in rows if row["split"] == "train" and first <= row["step"] <= last]
        return sum(lines) / len(lines)

    return read


def at_step(split: str, metric: str, step: int) -> Callable[[Rows], float]:
    """Returns a reader of a metric at a step."""

    def read(rows: Rows) -> float:
        return next(row[metric] for row in rows if row["split"] == split and row["step"] == step)

    return read


def always_right_from(rows: Rows) -> float:
    """Reads the first step from which the training accuracy stays 1; infinite if there is none."""
    train = [row for row in rows if row["split"] == "train"]
    wrong = [number for number, row in enumerate(train) if row["accuracy"] < 1]
    first = wrong[-1] + 1 if wrong else 0
    return train[first]["step"] if first < len(train) else math.inf


def _validation(source: str, target: float | None) -> Figure:
    return Figure("validation accuracy", final("validation", "accuracy"), source, target)


def _test(target: float | None) -> Figure:
    return Figure("test accuracy", final("test", "accuracy"), "none", target)


def _pixels(source: str, target: float | None) -> Figure:
    return Figure("test accuracy", final("test", "accuracy"), source, target)


def _training_loss(source: str, target: float) -> Figure:
    return Figure("training loss, last 250 steps", last_steps("loss", 250), source, target, higher=False)


def _series_mse(source: str, target: float) -> tuple[Figure, ...]:
    training = Figure("training MSE, steps 451 to 550", around("mse", 500, 550), source, target, higher=False)
    return training, Figure("test MSE", final("test", "mse"), "none", None, higher=False)


def _deep_mse(source: str) -> tuple[Figure, ...]:
    return (Figure("validation MSE at step 1,200", at_step("validation", "mse", 1200), source, None, higher=False),)


_HIHELLO = (
    Figure("all six right from step", always_right_from, "within 100", 100, higher=False),
    Figure("accuracy at the end", final("test", "accuracy"), "1", 1.0),
)

_CHARACTERS = "minGRU 1.548, a transformer of 6 layers 1.4697"


def _characters(source: str, target: float | None) -> tuple[Figure, ...]:
    validation = Figure("validation, nats a character", final("validation", "loss"), source, target, higher=False)
    return validation, Figure("test, nats a character", final("test", "loss"), "none", None, higher=False)


def _perplexity(source: str, target: float | None) -> tuple[Figure, ...]:
    return (Figure("test perplexity", final("test", "perplexity"), source, target, higher=False),)


def _bleu(source: str, target: float | None) -> tuple[Figure, ...]:
    return Figure("test BLEU", final("test", "bleu"), source, target), Figure(
        "chrF", final("test", "chrf"), "none", None
    )


def _at_length(metric: str, length: int, source: str, target: float | None, *, higher: bool = True) -> Figure:
    """Returns a figure of the test at one length."""
    return Figure(f"test {metric} at length {length:,}", final("test", f"{metric}_at_{length}"), source, target, higher)


def _automaton(source: str, length: int, target: float) -> tuple[Figure, ...]:
    """Returns the accuracies at the longest length of training and at four times as many steps."""
    trained = _at_length("accuracy", length, source, None)
    return trained, _at_length("accuracy", 4 * length, source, target)


_CHOMSKY = "RNN, LSTM 1.00 (Delétang et al., 2022)"
_WORD_PROBLEM = "an RNN of one layer 1.00, at the length of training (Merrill et al., 2024)"


def _adding(length: int) -> tuple[Figure, ...]:
    source = "always 1: 0.1667 (Arjovsky et al., 2016)"
    error = _at_length("loss", length, source, 0.01, higher=False)
    return error, _at_length("accuracy", length, "none", None)


def _copy(source: str, target: float | None) -> tuple[Figure, ...]:
    loss = _at_length("loss", 100, source, target, higher=False)
    return loss, _at_length("accuracy", 100, "chance 0.125", None)


def _recall(length: int, source: str, target: float | None = None) -> Figure:
    return _at_length("accuracy", length, source, target)


_WORD_VECTORS = (
    Figure("test loss", final("test", "loss"), "none", None, higher=False),
    Figure("class precision of neighbours", final("test", "class_precision"), "none; random vectors: 0", None),
)

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
    "mnist_pixel_gru256": Experiment("configs/mnist.py:pixel_gru256", (_pixels("GRU 0.991, LSTM 0.988", 0.991),)),
    "mnist_pixel_lru": Experiment("configs/mnist.py:pixel_lru", (_pixels("LRU, S5 0.996", 0.996),)),
    "mnist_pixel_lru_short": Experiment("configs/mnist.py:pixel_lru_short", (_pixels("none, of two epochs", None),)),
    "mnist_permuted_gru256": Experiment("configs/mnist.py:permuted_gru256", (_pixels("GRU 0.941, LSTM 0.929", 0.941),)),
    "mnist_permuted_lru": Experiment("configs/mnist.py:permuted_lru", (_pixels("LRU, S5 0.987", 0.987),)),
    "mnist_permuted_lru_short": Experiment(
        "configs/mnist.py:permuted_lru_short", (_pixels("none, of two epochs", None),)
    ),
    "parity": Experiment("configs/sequences.py:parity", _automaton(_CHOMSKY, 40, 0.99)),
    "parity_mingru": Experiment(
        "configs/sequences.py:parity_mingru",
        (_at_length("accuracy", 160, "chance 0.5", 0.6, higher=False),),
    ),
    "parity_delta": Experiment("configs/sequences.py:parity_delta", _automaton("none, of one layer", 40, 0.99)),
    "cycle_navigation": Experiment("configs/sequences.py:cycle_navigation", _automaton(_CHOMSKY, 40, 0.99)),
    "modular_arithmetic": Experiment("configs/sequences.py:modular_arithmetic", _automaton(_CHOMSKY, 20, 0.99)),
    "s5": Experiment("configs/sequences.py:s5", _automaton(_WORD_PROBLEM, 12, 0.99)),
    "s5_short": Experiment("configs/sequences.py:s5_short", _automaton(_WORD_PROBLEM, 6, 0.99)),
    "s5_swaps": Experiment(
        "configs/sequences.py:s5_swaps", _automaton("none, of four swaps for 120 symbols", 16, 0.99)
    ),
    "adding": Experiment("configs/sequences.py:adding", _adding(200)),
    "adding1000": Experiment("configs/sequences.py:adding1000", _adding(1000)),
    "copy": Experiment("configs/sequences.py:copy", _copy("baseline 10 ln 8 / 120 = 0.1733", 0.01)),
    "mqar": Experiment("configs/sequences.py:mqar", (_recall(64, "none"),)),
    "mqar_short": Experiment("configs/sequences.py:mqar_short", (_recall(64, "none, of 64 symbols", 0.99),)),
    "mqar_short_mingru": Experiment(
        "configs/sequences.py:mqar_short_mingru",
        (_at_length("accuracy", 64, "one of the four values at random 0.25", 0.5, higher=False),),
    ),
    "selective_copy": Experiment(
        "configs/sequences.py:selective_copy",
        (_recall(4096, "none"),),
    ),
    "selective_copy_short": Experiment(
        "configs/sequences.py:selective_copy_short", (_recall(64, "none, of 8 symbols in 64"),)
    ),
    "series_stacked": Experiment(
        "configs/time_series.py:stacked", _series_mse("0.0629, one batch at iteration 500", 0.0629)
    ),
    "series_projected": Experiment(
        "configs/time_series.py:projected", _series_mse("0.0594, one batch at iteration 500", 0.0594)
    ),
    "series_deep_dropout": Experiment("configs/time_series.py:deep_dropout", _deep_mse("14.5, one batch, dropout off")),
    "series_deep_dropout_sane": Experiment("configs/time_series.py:deep_dropout_sane", _deep_mse("none")),
    "hihello_basic": Experiment("configs/hihello.py:basic", _HIHELLO),
    "hihello_lstm": Experiment("configs/hihello.py:lstm", _HIHELLO),
    "hihello_gru": Experiment("configs/hihello.py:gru", _HIHELLO),
    "navigation_source800": Experiment(
        "configs/navigation.py:source800",
        (
            # The mean of runs in which 799 of 800 are right is 0.99875 but for rounding.
            Figure("training accuracy, last step", final("train", "accuracy"), "0.99875", 0.9987),
            Figure("test accuracy", final("test", "accuracy"), "0.025", None),
        ),
    ),
    "navigation_all": Experiment(
        "configs/navigation.py:all",
        (
            Figure("test recall@20", final("test", "recall_20"), "best baseline 0.529 (successors)", 0.529),
            Figure("test MRR@20", final("test", "mrr_20"), "best baseline 0.316 (last items)", 0.316),
        ),
    ),
    "navigation_embedded": Experiment(
        "configs/navigation.py:embedded",
        (Figure("test MRR@20", final("test", "mrr_20"), "best baseline 0.595 (successors)", 0.595),),
    ),
    "word2vec_ptb": Experiment("configs/word2vec.py:ptb", _WORD_VECTORS),
    "word2vec_embedded": Experiment("configs/word2vec.py:embedded", _WORD_VECTORS),
    "char_lm_lstm": Experiment("configs/char_lm.py:lstm", _characters(_CHARACTERS, 1.50)),
    "char_lm_gru": Experiment("configs/char_lm.py:gru", _characters(_CHARACTERS, 1.50)),
    "char_lm_cpu": Experiment("configs/char_lm.py:cpu", _characters("none", 1.75)),
    "char_lm_embedded": Experiment("configs/char_lm.py:embedded", _characters("none", None)),
    "ptb_small": Experiment("configs/ptb.py:small", _perplexity("114.5; TensorFlow's rerun 115.91", 115.9)),
    "ptb_medium": Experiment("configs/ptb.py:medium", _perplexity("82.7; TensorFlow's rerun 82.07", 82.7)),
    "ptb_large": Experiment("configs/ptb.py:large", _perplexity("78.4; TensorFlow's rerun 78.29", 78.4)),
    "ptb_embedded": Experiment("configs/ptb.py:embedded", _perplexity("none", None)),
    "translate_dates": Experiment(
        "configs/translate.py:dates", (Figure("test exact match", final("test", "exact_match"), "none", 0.99),)
    ),
    "translate_multi30k": Experiment("configs/translate.py:multi30k_de_en", _bleu("28.3", 28.3)),
    "translate_multi30k_small": Experiment("configs/translate.py:multi30k_de_en_small", _bleu("28.3", 28.3)),
    "translate_multi30k_gru": Experiment("configs/translate.py:multi30k_de_en_gru", _bleu("20.6", 20.6)),
    "translate_multi30k_small_gru": Experiment("configs/translate.py:multi30k_de_en_small_gru", _bleu("20.6", 20.6)),
    "translate_multi30k_lstm": Experiment("configs/translate.py:multi30k_de_en_lstm", _bleu("13.8", 13.8)),
    "translate_tatoeba_en_fr": Experiment("configs/translate.py:tatoeba_en_fr", _bleu("none", None)),
    "translate_tatoeba_en_ko": Experiment("configs/translate.py:tatoeba_en_ko", _bleu("none", None)),
}
