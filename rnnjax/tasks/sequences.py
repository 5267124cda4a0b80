"""Sequences that are made, not downloaded: what a cell can keep in mind, and whether it goes on beyond the lengths of
training.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.config import DataConfig, TrainConfig, build_cell
from rnnjax.data.dataset import Arrays, DataSet
from rnnjax.data.problems import PROBLEMS, Problem
from rnnjax.data.sequences import Sizes, examples_of, load_sequences
from rnnjax.errors import did_you_mean, require
from rnnjax.memory import require_memory
from rnnjax.models.labeller import SequenceLabeller
from rnnjax.models.losses import mean_over_steps, sequence_loss
from rnnjax.tasks import task
from rnnjax.tasks.length_plot import plot_by_length
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Weighted

_CLOSE = 0.04  # a number is right that is as close as this, as in Hochreiter and Schmidhuber (1997)

_LARGEST_ALPHABET = 1_000_000

Results = dict[int, dict[str, float]]  # by length: accuracy and loss

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class SequencesConfig(DataConfig):
    """The problem, and how much of it there is.

    Attributes:
      name: adding, copy, parity, modular_arithmetic, cycle_navigation, s5, s5_swaps, mqar or selective_copy.
      length: the longest length in training; of copy it is the time over which symbols are remembered.
      shortest: the shortest length in training; 0 takes the problem's own: `length`, but 1 for parity,
        modular_arithmetic and cycle_navigation.
      test_lengths: lengths at which a trained model is tested; none takes 1, 2, 3 and 4 times `length`.
      examples: of training. Each is made from its number and the seed whenever it is used, and the same in every epoch.
      held_out: examples of validation, and of the test at each length.
      memory: symbols to remember in copy and selective_copy, pairs in mqar; 0 takes as many as published.
      alphabet: different symbols in copy, selective_copy and mqar; 0 takes as many as published.
      seed: of the training examples; None takes the run's. With one of their own, the seeds of a sweep differ in the
        initial parameters and the order of the same examples, and share one compiled program.
    """

    name: str = "parity"
    length: int = 40
    shortest: int = 0
    test_lengths: tuple[int, ...] = ()
    examples: int = 128_000
    held_out: int = 1024
    memory: int = 0
    alphabet: int = 0
    seed: int | None = None

    def check(self) -> None:
        super().check()
        known, nearest = ", ".join(PROBLEMS), did_you_mean(self.name, PROBLEMS)
        require(
            self.name in PROBLEMS,
            f"data.name must be one of {known}, got {self.name!r}{nearest}",
        )
        require(self.path is None, "the sequences are made; leave data.path out")
        for name in ("examples", "held_out"):
            require(getattr(self, name) >= 1, f"data.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("memory", "alphabet"):
            own = getattr(self, name) == 0 or hasattr(PROBLEMS[self.name], name)
            require(own, f"{self.name} has no {name}; leave data.{name} out")
        require(self.memory >= 0, f"data.memory must not be negative, got {self.memory}")
        fits = self.seed is None or 0 <= self.seed < 2**32
        require(fits, f"data.seed must be from 0 to {2**32 - 1}, got {self.seed}; leave it out for that of the run")
        self._check_alphabet()
        self._check_lengths()

    def _check_alphabet(self) -> None:
        if not self.alphabet:
            return
        memory = getattr(self.problem(), "memory", 0)
        least = {"mqar": 2 * memory + 2, "selective_copy": 3}.get(self.name, 1)
        fits = least <= self.alphabet <= _LARGEST_ALPHABET
        require(fits, f"data.alphabet must be from {least} to {_LARGEST_ALPHABET}, got {self.alphabet}")

    def _check_lengths(self) -> None:
        least, shortest = self.problem().shortest, self.sizes().shortest
        for length in (shortest, self.length, *self.test_lengths):
            require(length >= least, f"an example of {self.name} has a length of at least {least}, got {length}")
        require(
            shortest <= self.length, f"data.shortest must be at most data.length, {self.length}, got {self.shortest}"
        )

    def problem(self) -> Problem:
        """Returns the problem."""
        options = {name: getattr(self, name) for name in ("memory", "alphabet") if getattr(self, name)}
        return PROBLEMS[self.name](**options)

    def sizes(self) -> Sizes:
        """Returns the numbers and lengths of examples."""
        shortest = self.shortest or (1 if PROBLEMS[self.name].any_length else self.length)
        tested = self.test_lengths or tuple(times * self.length for times in (1, 2, 3, 4))
        return Sizes(self.examples, shortest, self.length, self.held_out, tested)


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    Attributes:
      embedding: features of an embedded symbol; 0 has the cell read one-hot vectors.
    """

    task: str = "sequences"
    embedding: int = 0
    data: SequencesConfig = dataclasses.field(default_factory=SequencesConfig)

    def check(self) -> None:
        super().check()
        require(self.embedding >= 0, f"embedding must not be negative, got {self.embedding}")
        numbers = self.embedding and not self.data.problem().alphabets.inputs
        require(not numbers, f"{self.data.name} has no symbols to embed; leave embedding out")


class Task(task.Task):
    """Answers at the steps that the problem scores.

    `loss` is the mean over the steps that count: the cross-entropy in nats or, of numbers, the squared error.
    `accuracy` is the share of right answers, of numbers that of those within 0.04. Of the test split both are given for
    each length, as `loss_at_80` and `accuracy_at_80`, beside the means over all lengths.
    """

    config: Config
    best_metric, higher_is_better = "loss", False

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.problem, self.longest = config.data.problem(), config.data.sizes().longest
        self.cell, alphabets = build_cell(config.cell), self.problem.alphabets
        self.model = SequenceLabeller(
            self.cell, alphabets.answers or 1, alphabets.inputs, config.embedding, jnp.dtype(config.dtype)
        )
        self.steps = self.problem.steps(self.longest)
        one = jax.eval_shape(lambda: self.problem.example(jax.random.key(0), self.longest, self.steps)).inputs
        self.inputs = {"inputs": Field(("B", "T", *one.shape[1:]), str(one.dtype), alphabets.inputs or None)}

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        problem, sizes = config.data.problem(), config.data.sizes()
        require_room(problem, sizes)
        seed = config.seed if config.data.seed is None else config.data.seed
        return load_sequences(config.data.name, problem, sizes, seed)

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        if "key" in batch:
            batch = examples_of(self.problem, batch["key"], batch["length"], self.steps)
        answers = self.apply(params, batch["inputs"], key=key)
        judge = judged_classes if self.problem.alphabets.answers else judged_numbers
        return judge(answers, batch), carry

    def scores(self, params: Any, split: str) -> dict[str, float]:
        if split != "test":
            return {}
        results = self.results(params)
        for line in length_table(self.problem, results):
            _log.info("%s", line)
        return {f"{name}_at_{length}": value for length, row in results.items() for name, value in row.items()}

    def plots(self, params: Any, directory: Path) -> None:
        plot_by_length(self.results(params), self.longest, directory / "by_length.png")

    def results(self, params: Any) -> Results:
        """Returns the means of the metrics of the test split, by length."""
        return results_by_length(self._judged, params, self.data.splits["test"], self.config.batch_size)

    @functools.cached_property
    def _judged(self) -> Any:
        return jax.jit(lambda params, batch: self.loss(params, None, batch, None)[0])


def require_room(problem: Problem, sizes: Sizes) -> None:
    """Raises `ConfigError` unless the keys of training and the examples that are held out fit into memory."""
    tested = len(sizes.test_lengths) * problem.steps(max(sizes.test_lengths))
    held_out = sizes.held_out * (problem.steps(sizes.longest) + tested)
    remedy = "lower data.examples, data.held_out or the lengths"
    require_memory(16 * sizes.examples + 32 * held_out, "the examples", remedy)


def judged_classes(logits: Float[Array, "B T O"], batch: Batch) -> Metrics:
    """Returns loss and accuracy of each example whose targets are classes."""
    right = (logits.argmax(-1) == batch["targets"]).astype(jnp.float32)
    loss = sequence_loss(logits, batch["targets"], batch["counted"])
    return {"loss": Weighted(*loss), "accuracy": Weighted(*mean_over_steps(right, batch["scored"]))}


def judged_numbers(answers: Float[Array, "B T 1"], batch: Batch) -> Metrics:
    """Returns the squared error of each example whose targets are numbers, and whether it is close."""
    errors = answers[..., 0] - batch["targets"]
    close = (jnp.abs(errors) <= _CLOSE).astype(jnp.float32)
    loss = mean_over_steps(jnp.square(errors), batch["counted"])
    return {"loss": Weighted(*loss), "accuracy": Weighted(*mean_over_steps(close, batch["scored"]))}


def results_by_length(judged: Callable[[Any, Any], Metrics], params: Any, examples: Arrays, batch_size: int) -> Results:
    """Returns the means of the metrics over the examples of each length.

    Args:
      judged: returns the metrics of a batch's examples.
      params: parameters of the model.
      examples: of a split, those of one length next to each other.
      batch_size: most examples that are computed at once.
    """
    results = {}
    for length in dict.fromkeys(examples["length"].tolist()):
        rows = np.flatnonzero(examples["length"] == length)
        parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        found = [judged(params, {name: each[part] for name, each in examples.items()}) for part in parts]
        results[length] = {name: _mean([each[name] for each in found]) for name in ("accuracy", "loss")}
    return results


def _mean(parts: Sequence[Any]) -> float:
    """Returns the mean of a metric over all examples of some batches."""
    total = sum(float((part.value * part.weight).sum()) for part in parts)
    return total / sum(float(part.weight.sum()) for part in parts)


def length_table(problem: Problem, results: Results) -> Iterator[str]:
    """Yields the lines of a table: length, accuracy, loss, and that of a model that remembers nothing, if known."""
    baselines = [problem.baseline(length) for length in results]
    known = any(baseline is not None for baseline in baselines)
    yield f"{'length':>8}{'accuracy':>12}{'loss':>12}" + (f"{'baseline':>12}" if known else "")
    for (length, row), baseline in zip(results.items(), baselines):
        shown = "" if baseline is None else f"{baseline:12.4f}"
        yield f"{length:8}{row['accuracy']:12.4f}{row['loss']:12.4f}{shown}"
