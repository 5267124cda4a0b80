"""Classifies sequences of your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.config import TrainConfig
from rnnjax.data.dataset import DataSet
from rnnjax.data.own.table import csv_line
from rnnjax.models.classifier import SequenceClassifier
from rnnjax.tasks.confusion_plot import plot_confusion
from rnnjax.tasks.own_data import SequencesConfig, SequencesTask
from rnnjax.tasks.task import Batch, Metrics, Weighted

_MOST_DRAWN = 1000  # examples of the picture


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    Attributes:
      pooled: whether the mean of all outputs is classified, not the last.
    """

    task: str = "classify"
    pooled: bool = False
    data: SequencesConfig = dataclasses.field(default_factory=SequencesConfig)


class Task(SequencesTask):
    """Sequences `[B, T, I]` of any lengths, each with a class.

    A label that training has not counts as an error, and is left out of the loss.
    """

    config: Config
    every_step = False

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        classes, dtype = len(self.reading.classes), jnp.dtype(config.dtype)
        self.model = SequenceClassifier(self.cell, classes, dtype, config.pooled)

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        return judged(self.logits(params, batch, key), batch["label"]), carry

    def plots(self, params: Any, directory: Path) -> None:
        test: Any = {name: field[:_MOST_DRAWN] for name, field in self.data.splits["test"].items()}
        predicted = np.asarray(jax.jit(self.logits)(params, test)).argmax(-1)
        plot_confusion(test["label"], predicted, self.reading.classes, directory / "confusion.png")

    def generate(self, params: Any) -> Iterator[str]:
        """Yields the class of every sequence of the data, labelled or not, as lines of a csv file."""
        sequences = self.unlabelled()
        yield "id,label,probability"
        for id, _, chances in self.chances(params, sequences):
            yield csv_line([id, self.reading.classes[int(chances.argmax())], f"{chances.max():.4f}"])


def judged(logits: Float[Array, "B C"], label: Int[Array, " B"]) -> Metrics:
    """Returns loss and accuracy of each example; its label is negative if training does not have it."""
    known = label >= 0
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, label, 0))
    right = (logits.argmax(-1) == label).astype(jnp.float32)
    return {"loss": Weighted(loss, known.astype(jnp.float32)), "accuracy": right}
