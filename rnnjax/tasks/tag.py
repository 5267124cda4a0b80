"""Labels every step of sequences of your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnnjax.config import TrainConfig
from rnnjax.data.dataset import DataSet
from rnnjax.data.own.table import csv_line
from rnnjax.models.labeller import SequenceLabeller
from rnnjax.models.losses import mean_over_steps, sequence_loss
from rnnjax.tasks.own_data import SequencesConfig, SequencesTask
from rnnjax.tasks.task import Batch, Metrics, Weighted


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task."""

    task: str = "tag"
    data: SequencesConfig = dataclasses.field(default_factory=SequencesConfig)


class Task(SequencesTask):
    """Sequences `[B, T, I]` of any lengths, with a class at every step.

    Metrics are means over the steps that have a label. One that training has not counts as an error, and is left out
    of the loss.
    """

    config: Config
    every_step = True

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.model = SequenceLabeller(self.cell, len(self.reading.classes), dtype=jnp.dtype(config.dtype))

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        logits = self.logits(params, batch, key)
        loss = sequence_loss(logits, batch["label"], batch["counted"] & (batch["label"] >= 0))
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        return {"loss": Weighted(*loss), "accuracy": Weighted(*mean_over_steps(right, batch["counted"]))}, carry

    def generate(self, params: Any) -> Iterator[str]:
        """Yields the class of every step of the data, labelled or not, as lines of a csv file."""
        sequences = self.unlabelled()
        yield "id,step,label,probability"
        for id, length, chances in self.chances(params, sequences):
            for step, each in enumerate(chances[:length], 1):
                yield csv_line([id, str(step), self.reading.classes[int(each.argmax())], f"{each.max():.4f}"])
