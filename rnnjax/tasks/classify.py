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

from rnnjax.config import TrainConfig, build_cell
from rnnjax.data.own.sequences import Reading
from rnnjax.data.own.table import csv_line
from rnnjax.models.classifier import SequenceClassifier
from rnnjax.tasks.confusion_plot import plot_confusion
from rnnjax.tasks.own_data import SequencesConfig, answers, applied, load_own_sequences, task_of_sequences
from rnnjax.tasks.task import Batch, Kept, Request, Task, Values, Weighted

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


def build(config: Config, kept: Kept | None = None) -> Task:
    """Returns the task: sequences `[B, T, I]` of any lengths, each with a class.

    A label that training has not counts as an error, and is left out of the loss.

    Args:
      config: the config.
      kept: scaling and classes of a run, if the data is to be read by those; otherwise they are learnt from it.

    Raises:
      DataError: as `rnnjax.data.own.sequences.load_sequences`.
    """
    own = load_own_sequences(config.data, kept, every_step=False)
    task = open_task(config, own.reading.to_json())

    def plots(params: Any, directory: Path) -> None:
        test = {name: field[:_MOST_DRAWN] for name, field in own.data.splits["test"].items()}
        predicted = np.asarray(jax.jit(applied(task.model))(params, test)).argmax(-1)
        plot_confusion(test["label"], predicted, own.reading.classes, directory / "confusion.png")

    return dataclasses.replace(task, data=own.data, plots=plots)


def open_task(config: Config, kept: Kept) -> Task:
    """Returns the task without data; it predicts the logits of classes from sequences, NaN where values are missing."""
    reading = Reading.from_json(kept)
    model = SequenceClassifier(build_cell(config.cell), len(reading.classes), jnp.dtype(config.dtype), config.pooled)
    classify = applied(model)

    def values(params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Values, None]:
        logits = classify(params, batch, None if key is None else {"dropout": key})
        return judged(logits, batch["label"]), carry

    def generate(params: Any, request: Request) -> Iterator[str]:
        likely = jax.jit(lambda batch: jax.nn.softmax(classify(params, batch)))
        found = answers(config.data, reading, likely, request)
        yield "id,label,probability"
        for id, _, chances in found:
            yield csv_line([id, reading.classes[int(chances.argmax())], f"{chances.max():.4f}"])

    return task_of_sequences(model, reading, classify, values, generate)


def judged(logits: Float[Array, "B C"], label: Int[Array, " B"]) -> Values:
    """Returns loss and accuracy of each example; its label is negative if training does not have it."""
    known = label >= 0
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, label, 0))
    right = (logits.argmax(-1) == label).astype(jnp.float32)
    return {"loss": Weighted(loss, known.astype(jnp.float32)), "accuracy": right}
