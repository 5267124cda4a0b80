"""The contract of a task: data, model, loss and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from rnnjax.cells.cell import Cell
from rnnjax.data.dataset import DataSet

Batch = dict[str, Shaped[Array, "B ..."]]


class Weighted(NamedTuple):
    """A metric whose examples have weights: its mean is ``sum(value * weight) / sum(weight)``.

    For a mean over all valid steps, `value` is each example's mean over its valid steps, `weight` their number.
    """

    value: Float[Array, " B"]
    weight: Float[Array, " B"]


Values = dict[str, Shaped[Array, " B"] | Weighted]


class Buckets(NamedTuple):
    """Padded widths for sequences of unequal length: a batch has examples of one bucket only, cut to its widths.

    Attributes:
      of: for each split, the bucket of every example, ``[N]``.
      widths: for each bucket, by field, the length to which axis 1 is cut.
    """

    of: Mapping[str, Int[np.ndarray, " N"]]
    widths: tuple[Mapping[str, int], ...]


class Field(NamedTuple):
    """What a model reads.

    Attributes:
      shape: with letters such as "B" and "T" for free sizes.
      dtype: its name.
      below: for tokens, how many there are; each is from 0 up to it.
    """

    shape: tuple[int | str, ...]
    dtype: str
    below: int | None = None


Kept = Mapping[str, Any]
"""What a model needs of the data that it was trained on, such as a vocabulary: values that JSON can hold."""


class Request(NamedTuple):
    """The options of `python -m rnnjax.generate`.

    Attributes:
      prompt: what to continue; None takes the task's default.
      length: number of steps to generate.
      temperature: of sampling; 0 always takes the most likely.
      top_k: if given, samples only from the k most likely.
      top_p: if given, samples only from the most likely that together have probability p.
      seed: of sampling.
      beam_size: width of the beam.
      n_best: number of results of the beam that are printed.
      lines: of the standard input, without line ends, read lazily.
      plots: directory for plots; None draws none.
    """

    prompt: str | None
    length: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    beam_size: int
    n_best: int
    lines: Iterable[str]
    plots: Path | None = None


class Stream(NamedTuple):
    """How a task's model is taken a step at a time, and what is said of it, as `rnnjax.streams.lines.answers` does.

    Attributes:
      read: returns the inputs that a line stands for, each of a step of one sequence; raises `ValueError`.
      say: ``say(outputs, n)`` returns the answer from the outputs of a step, or the n best of them.
    """

    read: Callable[[str], Iterable[Any]]
    say: Callable[[Any, int], str]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, as the training loop uses it, and without data as one opens a finished run.

    Attributes:
      data: its data set, with splits `train`, `validation` and `test`; `NO_DATA` where a run is opened without.
      init: returns fresh parameters from a PRNG key.
      values: ``(params, carry, batch, key) -> (values, carry)``: for every metric by name, a value for each example,
        ``[B]`` or `Weighted`; training minimises `loss`. `key` is None in evaluation.
      best_metric: the validation metric that decides which parameters are best.
      higher_is_better: whether the highest value is the best.
      carry: recurrent state before the first batch, each leaf ``[B, ...]``; None if each batch starts from the initial
        state.
      ordered: whether batches are consecutive examples in the order of the data, as carried state requires; otherwise
        examples are shuffled every epoch.
      buckets: if given, how batches are made of sequences of unequal length.
      derived: if given, returns further metrics from the means of `values`, such as the perplexity from the loss.
      score: if given, ``score(params, split)`` returns metrics that need more than `values`, such as decoding a whole
        split. It is called for the test split after training, and in evaluation.
      plots: if given, ``plots(params, directory)`` writes plots of the trained model into a directory.
      generate: if given, ``generate(params, request)`` yields the lines that `python -m rnnjax.generate` prints.
      translate: if given, ``translate(params, lines, beam_size)`` returns the best translation of every line.
      kept: what a run keeps of the data, so that its model can be opened without.
      cell: the recurrent cell of the model.
      model: the model.
      inputs: what `predict` reads, by name; what a run is given as one array is the first.
      predict: if given, ``predict(params, inputs)`` returns what the model makes of inputs by name, ``[B, ...]`` each.
      stream: if given, how `model` answers lines one after the other, with its state carried on.
    """

    data: DataSet
    init: Callable[[PRNGKeyArray], Any]
    values: Callable[[Any, Any, Batch, PRNGKeyArray | None], tuple[Values, Any]]
    best_metric: str = "accuracy"
    higher_is_better: bool = True
    carry: Any = None
    ordered: bool = False
    buckets: Buckets | None = None
    derived: Callable[[dict[str, float]], dict[str, float]] | None = None
    score: Callable[[Any, str], dict[str, float]] | None = None
    plots: Callable[[Any, Path], None] | None = None
    generate: Callable[[Any, Request], Iterator[str]] | None = None
    translate: Callable[[Any, Sequence[str], int], list[str]] | None = None
    kept: Kept = dataclasses.field(default_factory=dict)
    cell: Cell | None = None
    model: Any = None
    inputs: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    predict: Callable[[Any, Mapping[str, Any]], Any] | None = None
    stream: Stream | None = None

    def examples(self, split: str) -> int:
        """Returns the number N of examples in a split."""
        return len(next(iter(self.data.splits[split].values())))

    def complete(self, means: dict[str, Any]) -> dict[str, Any]:
        """Returns the means of `values` with the metrics derived from them."""
        return means if self.derived is None else means | self.derived(means)
