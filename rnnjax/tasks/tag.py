"""Labels every step of sequences of your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnnjax.config import TrainConfig, build_cell
from rnnjax.data.own.sequences import Reading
from rnnjax.data.own.table import csv_line
from rnnjax.models.labeller import SequenceLabeller
from rnnjax.models.losses import mean_over_steps, sequence_loss
from rnnjax.tasks.own_data import SequencesConfig, answers, applied, load_own_sequences, task_of_sequences
from rnnjax.tasks.task import Batch, Kept, Request, Task, Values, Weighted


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task."""

    task: str = "tag"
    data: SequencesConfig = dataclasses.field(default_factory=SequencesConfig)


def build(config: Config, kept: Kept | None = None) -> Task:
    """Returns the task: sequences `[B, T, I]` of any lengths, with a class at every step.

    Metrics are means over the steps that have a label. One that training has not counts as an error, and is left out
    of the loss.

    Args:
      config: the config.
      kept: scaling and classes of a run, if the data is to be read by those; otherwise they are learnt from it.

    Raises:
      DataError: as `rnnjax.data.own.sequences.load_sequences`.
    """
    own = load_own_sequences(config.data, kept, every_step=True)
    return dataclasses.replace(open_task(config, own.reading.to_json()), data=own.data)


def open_task(config: Config, kept: Kept) -> Task:
    """Returns the task without data; it predicts the logits of classes at every step, from values NaN where missing."""
    reading = Reading.from_json(kept)
    model = SequenceLabeller(build_cell(config.cell), len(reading.classes), dtype=jnp.dtype(config.dtype))
    tag = applied(model)

    def values(params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Values, None]:
        logits = tag(params, batch, None if key is None else {"dropout": key})
        loss = sequence_loss(logits, batch["label"], batch["counted"] & (batch["label"] >= 0))
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        return {"loss": Weighted(*loss), "accuracy": Weighted(*mean_over_steps(right, batch["counted"]))}, carry

    def generate(params: Any, request: Request) -> Iterator[str]:
        likely = jax.jit(lambda batch: jax.nn.softmax(tag(params, batch)))
        found = answers(config.data, reading, likely, request)
        yield "id,step,label,probability"
        for id, length, chances in found:
            for step, each in enumerate(chances[:length], 1):
                yield csv_line([id, str(step), reading.classes[int(each.argmax())], f"{each.max():.4f}"])

    return task_of_sequences(model, reading, tag, values, generate)
