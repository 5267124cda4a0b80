"""Predicts the next character of a word: from "hihell", "ihello"."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.config import DataConfig, TrainConfig, build_cell
from rnnjax.data.dataset import NO_DATA, Arrays, DataSet, content_checksum
from rnnjax.errors import require
from rnnjax.models.forecaster import Forecaster
from rnnjax.models.losses import mean_over_steps, sequence_loss
from rnnjax.tasks.task import Batch, Field, Kept, Request, Task, Values, Weighted


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


def build(config: Config, kept: Kept | None = None) -> Task:
    """Returns the task: one example, the characters of the text as one-hot inputs and the next ones as targets.

    Args:
      config: the config.
      kept: the characters of a run, if the text is to be read by them; otherwise they are those of the text.
    """
    # In the order in which characters first occur, unlike a set.
    kept = kept or {"characters": "".join(dict.fromkeys(config.text))}
    return dataclasses.replace(open_task(config, kept), data=load(config.text, tuple(kept["characters"])))


def open_task(config: Config, kept: Kept) -> Task:
    """Returns the task without data; it predicts the logits of the character after each of `inputs`, by number."""
    vocabulary, cell = tuple(kept["characters"]), build_cell(config.cell)
    model = Forecaster(cell, len(vocabulary), dtype=jnp.dtype(config.dtype))

    def init(key: PRNGKeyArray) -> Any:
        return model.init(key, jnp.zeros((1, 1, len(vocabulary))))

    def logits(params: Any, inputs: Int[Array, "B T"], rngs: Any = None) -> Float[Array, "B T V"]:
        apply: Any = model.apply
        return apply(params, jax.nn.one_hot(inputs, len(vocabulary)), rngs=rngs, deterministic=rngs is None)

    def values(params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Values, None]:
        scores = logits(params, batch["inputs"], None if key is None else {"dropout": key})
        right = (scores.argmax(-1) == batch["targets"]).astype(jnp.float32)
        loss = Weighted(*sequence_loss(scores, batch["targets"], batch["weights"]))
        return {"loss": loss, "accuracy": Weighted(*mean_over_steps(right, batch["weights"]))}, carry

    def generate(params: Any, request: Request) -> Iterator[str]:
        inputs = encode(request.prompt or config.text[:-1], vocabulary)
        predicted = jax.jit(logits)(params, inputs[None])[0].argmax(-1)
        yield "".join(vocabulary[i] for i in np.asarray(predicted))

    return Task(
        NO_DATA,
        init,
        values,
        generate=generate,
        kept=dict(kept),
        cell=cell,
        model=model,
        inputs={"inputs": Field(("B", "T"), "int32", len(vocabulary))},
        predict=lambda params, inputs: logits(params, inputs["inputs"]),
    )


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
