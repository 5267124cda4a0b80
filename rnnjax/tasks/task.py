"""The contract of a task: data, model, loss and metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from rnnjax.cells.cell import Cell
from rnnjax.data.dataset import DataSet
from rnnjax.errors import require

Batch = dict[str, Shaped[Array, "B ..."]]


class Weighted(NamedTuple):
    """A metric whose examples have weights: its mean is ``sum(value * weight) / sum(weight)``.

    For a mean over all valid steps, `value` is each example's mean over its valid steps, `weight` their number.
    """

    value: Float[Array, " B"]
    weight: Float[Array, " B"]


Metrics = dict[str, Shaped[Array, " B"] | Weighted]
Sums = dict[str, Weighted]  # for each metric, the sum of its weighted values and the sum of the weights


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

    def zeros(self) -> Shaped[Array, "..."]:
        """Returns an array of zeros, of which free sizes are 1."""
        return jnp.zeros([1 if isinstance(size, str) else size for size in self.shape], self.dtype)


Kept = Mapping[str, Any]
"""What a model needs of the data that it was trained on, such as a vocabulary: values that JSON can hold."""


class Stream(NamedTuple):
    """How a task's model is taken a step at a time, and what is said of it, as `rnnjax.streams.lines.answers` does.

    Attributes:
      read: returns the inputs that a line stands for, each of a step of one sequence; raises `ValueError`.
      say: ``say(outputs, *, option=default, ...)`` returns the answer from the outputs of a step. Its keyword arguments
        are the options of ``python -m rnnjax.generate --stream``.
    """

    read: Callable[[str], Iterable[Any]]
    say: Callable[..., str]


class Task:
    """What is trained, on which data. The module of a task has a class `Task` that derives from this one.

    Such a class says how its data is read (`read`), makes the model (`__init__`), and judges what the model makes of a
    batch (`loss`). All else has defaults. Only `read` needs files: the model is made of the config and of what the data
    set keeps, so that a finished run is opened without its data.

    Args:
      config: the config.
      data: the data set, with splits `train`, `validation` and `test`; of no examples where a run is opened without.

    Attributes:
      config: the config.
      data: the data set.
      kept: what the model needs of the data, and a run therefore keeps.
      model: the model. The defaults of `init` and `predict` take it for a Flax module.
      cell: the recurrent cell of the model; None where it has none.
      inputs: what `predict` reads, by name; what a run is given as one array is the first. Without, nothing is
        predicted.
      best_metric: the validation metric that decides which parameters are best.
      higher_is_better: whether the highest value is the best.
      carry: recurrent state before the first batch, each leaf ``[B, ...]``; None if each batch starts from the initial
        state.
      ordered: whether batches are consecutive examples in the order of the data, as carried state requires; otherwise
        examples are shuffled every epoch.
      buckets: if given, how batches are made of sequences of unequal length.
      generate: if written, ``generate(params, *, option=default, ...)`` yields the lines that ``python -m
        rnnjax.generate`` prints. Its keyword arguments are the task's options; two more are given if they are there:
        `lines` of the standard input, without line ends and read lazily, and `plots`, a directory or None.
      translate: if written, ``translate(params, lines, beam_size)`` returns the best translation of every line.
      stream: if given, how `model` answers lines one after the other, with its state carried on.
    """

    config: Any
    model: Any = None
    cell: Cell | None = None
    inputs: Mapping[str, Field] = {}
    best_metric: str = "accuracy"
    higher_is_better: bool = True
    carry: Any = None
    ordered: bool = False
    buckets: Buckets | None = None
    generate: Callable[..., Iterator[str]] | None = None
    translate: Callable[[Any, Sequence[str], int], list[str]] | None = None
    stream: Stream | None = None

    def __init__(self, config: Any, data: DataSet):
        self.config, self.data, self.kept = config, data, data.kept

    @staticmethod
    def read(config: Any, kept: Kept) -> DataSet:
        """Reads the data set.

        Args:
          config: the config.
          kept: what a run has kept, by which its model has the data read; empty where it is learnt from the data.
        """
        raise NotImplementedError

    def loss(self, params: Any, carry: Any, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, Any]:
        """Returns for every metric by name a value of each example, and the carry. Training minimises `loss`.

        Args:
          params: the parameters.
          carry: the recurrent state before the batch, if the task carries any.
          batch: some examples.
          key: of what is random in training; None in evaluation.
        """
        raise NotImplementedError

    def mean_loss(self, params: Any, batch: Mapping[str, Any], key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """Returns what a training step minimises: the mean of `loss` over a batch before which there is none.

        Args:
          params: the parameters.
          batch: arrays of any kind by name, ``[B, ...]`` each; of ``config.batch_size`` examples where the task
            carries state, as a language model does.
          key: of what is random in training; None takes the loss of evaluation, without dropout or smoothed labels.
        """
        metrics, _ = self.loss(params, self.carry, jax.tree.map(jnp.asarray, dict(batch)), key)
        return mean(*metric_sums(metrics)["loss"])

    def init(self, key: PRNGKeyArray) -> Any:
        """Returns fresh parameters."""
        what = f"the task {type(self).__module__} has no model"
        require(self.model is not None, f"{what}; set self.model in __init__, or write init and predict")
        return self.model.init(key, *(field.zeros() for field in self.inputs.values()))

    def apply(self, params: Any, *inputs: Any, key: PRNGKeyArray | None = None, **options: Any) -> Any:
        """Returns what the model, a Flax module, makes of inputs.

        Args:
          params: its parameters.
          *inputs: of the model, in their order.
          key: of dropout; None drops nothing.
          **options: of the model, such as `lengths`.
        """
        rngs = None if key is None else {"dropout": key}
        return self.model.apply(params, *inputs, rngs=rngs, deterministic=key is None, **options)

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Any:
        """Returns what the model makes of inputs by name, ``[B, ...]`` each."""
        return self.apply(params, *(inputs[name] for name in self.inputs))

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Returns the means of the metrics of `loss` with those derived from them, as the perplexity is."""
        return means

    def scores(self, params: Any, split: str) -> dict[str, float]:
        """Returns metrics of a whole split that `loss` cannot give, after training and in evaluation."""
        return {}

    def plots(self, params: Any, directory: Path) -> None:
        """Writes plots of the trained model into a directory."""

    def examples(self, split: str) -> int:
        """Returns the number N of examples in a split."""
        return len(next(iter(self.data.splits[split].values())))

    def groups(self, split: str) -> list[Int[np.ndarray, " n"]]:
        """Returns the groups of examples of a split that can be in the same batch: those of each bucket, or all."""
        if self.buckets is None:
            return [np.arange(self.examples(split))]
        return [np.flatnonzero(self.buckets.of[split] == bucket) for bucket in range(len(self.buckets.widths))]

    def with_data(self, data: DataSet) -> Self:
        """Returns the same task with another data set."""
        other = copy.copy(self)
        other.data = data
        return other


def metric_sums(values: Metrics, weight: Float[Array, " B"] | float = 1.0) -> Sums:
    """Returns the weighted sum of every metric and the sum of its weights; `weight` is a further factor per example."""

    def sums(value: Array | Weighted) -> Weighted:
        value, metric_weight = value if isinstance(value, Weighted) else Weighted(value, jnp.ones_like(value))
        # In float32 whatever the model computes in, since many examples are added up.
        weights = (metric_weight * weight).astype(jnp.float32)
        return Weighted((value.astype(jnp.float32) * weights).sum(), weights.sum())

    return {name: sums(value) for name, value in values.items()}


def mean(total: Float[Array, "*shape"], weight: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """Returns a mean from a weighted sum and the sum of its weights; zero if the weights are zero."""
    return total / jnp.where(weight > 0, weight, 1).astype(total.dtype)
