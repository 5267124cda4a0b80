"""Predicts the next character of a word: from "hihell", "ihello"."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.config import DataConfig, TrainConfig, build_cell
from rnnjax.data.dataset import Arrays, DataSet, content_checksum
from rnnjax.errors import require
from rnnjax.models.forecaster import Forecaster
from rnnjax.models.losses import mean_over_steps, sequence_loss
from rnnjax.tasks import task
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Weighted


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    Attributes:
      text: the text, of which each character but the first is predicted from those before it.
    """

    task: str = "hihello"
    text: str = "hihello"
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="embedded"))

    def check(self) -> None:
        super().check()
        require(len(self.text) >= 2, f"text must have at least two characters, got {self.text!r}")
        generated = self.data.name == "embedded" and self.data.path is None
        require(generated, 'the data is config.text; leave data.path out and data.name at "embedded"')


class Task(task.Task):
    """One example: the characters of the text as one-hot inputs, and the next ones as targets.

    Characters are numbered in the order in which they first occur; `predict` returns the logits of the next ones.
    """

    config: Config

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.vocabulary = tuple(self.kept["characters"])
        self.cell = build_cell(config.cell)
        self.model = Forecaster(self.cell, len(self.vocabulary), dtype=jnp.dtype(config.dtype))
        self.inputs = {"inputs": Field(("B", "T"), "int32", len(self.vocabulary))}

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        kept = kept or {"characters": "".join(dict.fromkeys(config.text))}  # in their order, unlike a set
        return dataclasses.replace(load(config.text, tuple(kept["characters"])), kept=kept)

    def init(self, key: PRNGKeyArray) -> Any:
        return self.model.init(key, jnp.zeros((1, 1, len(self.vocabulary))))

    def logits(self, params: Any, inputs: Int[Array, "B T"], key: PRNGKeyArray | None = None) -> Float[Array, "B T V"]:
        """Returns the scores of the character after each."""
        return self.apply(params, jax.nn.one_hot(inputs, len(self.vocabulary)), key=key)

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        logits = self.logits(params, batch["inputs"], key)
        right = (logits.argmax(-1) == batch["targets"]).astype(jnp.float32)
        loss = Weighted(*sequence_loss(logits, batch["targets"], batch["weights"]))
        return {"loss": loss, "accuracy": Weighted(*mean_over_steps(right, batch["weights"]))}, carry

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B T V"]:
        return self.logits(params, inputs["inputs"])

    def generate(self, params: Any, *, prompt: str | None = None) -> Iterator[str]:
        inputs = encode(prompt or self.config.text[:-1], self.vocabulary)
        predicted = jax.jit(self.logits)(params, inputs[None])[0].argmax(-1)
        yield "".join(self.vocabulary[i] for i in np.asarray(predicted))


def load(text: str, vocabulary: tuple[str, ...]) -> DataSet:
    """Returns the one example as every split: `inputs` and `targets` int32 [1, T], `weights` float32 [1, T].

    Nothing is held out: the task is to learn the text by heart.
    """
    codes = encode(text, vocabulary)[None]
    example = {"inputs": codes[:, :-1], "targets": codes[:, 1:], "weights": np.ones(codes[:, 1:].shape, np.float32)}
    splits: dict[str, Arrays] = dict.fromkeys(("train", "validation", "test"), example)
    return DataSet("hihello", splits, f"the text {text!r} of the config", content_checksum(splits))


def encode(text: str, vocabulary: tuple[str, ...]) -> Int[np.ndarray, " T"]:
    """Returns the characters of a text as numbers.

    Raises:
      ConfigError: for a character that is not in the vocabulary.
    """
    unknown = "".join(sorted(set(text) - set(vocabulary)))
    require(not unknown, f"only the characters {''.join(vocabulary)!r} are known, not {unknown!r}; use those")
    return np.array([vocabulary.index(character) for character in text], np.int32)
