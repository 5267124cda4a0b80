"""What is trained: data, model, loss and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.data.dataset import DataSet

Batch = dict[str, Array]


class Weighted(NamedTuple):
    """A metric whose examples do not count alike: its mean is ``sum(value * weight) / sum(weight)``.

    For the mean over all valid steps, `value` is each example's mean over its own, `weight` how many they are.
    """

    value: Float[Array, " B"]
    weight: Float[Array, " B"]


Values = dict[str, Array | Weighted]


class Buckets(NamedTuple):
    """Padded widths for sequences of unequal length: a batch holds examples of one bucket, cut to its widths.

    Attributes:
      of: for each split, the bucket of every example, ``[N]``.
      widths: for each bucket, how much of axis 1 is kept of which fields.
    """

    of: Mapping[str, Int[np.ndarray, " N"]]
    widths: tuple[Mapping[str, int], ...]


class Request(NamedTuple):
    """What `python -m rnnjax.generate` is asked for.

    Attributes:
      prompt: what to continue; None leaves it to the task.
      length: number of steps to generate.
      temperature: of sampling; 0 takes the likeliest.
      top_k, top_p: if given, sampling is among the k likeliest, or the likeliest that make up probability p.
      seed: of sampling.
      beam_size, n_best: width of the beam, and how many of its results are given.
      lines: of the standard input, without their ends, read when they are asked for.
      plots: directory for pictures.
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
    plots: Path


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, as the training loop sees it.

    Attributes:
      data: its data set, with splits `train`, `validation` and `test`.
      init: returns fresh parameters from a PRNG key.
      values: ``(params, carry, batch, key) -> (values, carry)``: one value an example, ``[B]`` or `Weighted`, for every
        metric by its name; `loss` is what training makes small. `key` is None in evaluation.
      best_metric: the validation metric that says which parameters are the best.
      higher_is_better: whether the best is the highest.
      carry: recurrent state before the first batch, each leaf ``[B, ...]``; None where each batch starts afresh.
      ordered: whether training takes the examples as they stand, B at a time, as carried state needs it; otherwise
        they are shuffled every epoch.
      buckets: if given, how batches are made of sequences of unequal length.
      derived: if given, more metrics from the means of `values`, such as the perplexity from the loss.
      score: if given, ``score(params, split)`` returns metrics that need more than `values`, such as what decoding a
        whole split gives; for the test split after training, and in evaluation.
      plots: if given, ``plots(params, directory)`` draws pictures of the trained model into a directory.
      generate: if given, ``generate(params, request)`` yields the lines that `python -m rnnjax.generate` prints.
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

    def examples(self, split: str) -> int:
        """Returns the number N of examples in a split."""
        return len(next(iter(self.data.splits[split].values())))

    def complete(self, means: dict[str, Any]) -> dict[str, Any]:
        """Returns the means of `values` with the metrics derived from them."""
        return means if self.derived is None else means | self.derived(means)
