"""Classifies handwritten digits, read row by row."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from rnnjax.config import DataConfig, TrainConfig, build_cell
from rnnjax.data.dataset import DataSet
from rnnjax.data.embedded import load_embedded_digits
from rnnjax.data.mnist import load_mnist
from rnnjax.errors import require
from rnnjax.models.classifier import SequenceClassifier
from rnnjax.plots import plot_images
from rnnjax.tasks.task import Batch, Task, Values

_CLASSES = 10


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task: `data.name` is "mnist", or "embedded" for the 5,000 digits of an installed package."""

    task: str = "mnist"
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="mnist"))

    def check(self) -> None:
        super().check()
        known = self.data.name in ("mnist", "embedded")
        require(known, f'data.name must be "mnist" or "embedded", got {self.data.name!r}')
        embedded_path = self.data.name == "embedded" and self.data.path is not None
        require(
            not embedded_path, "the embedded digits come with a package; leave data.path out, or use another variant"
        )


def build(config: Config) -> Task:
    """Returns the task: images `[B, 28, 28]` are sequences of 28 rows, classified after the last row.

    Raises:
      DataError: as `rnnjax.data.mnist.load_mnist` and `load_embedded_digits`.
    """
    model = SequenceClassifier(build_cell(config.cell), _CLASSES, jnp.dtype(config.dtype))
    data = load(config.data)

    def init(key: PRNGKeyArray) -> Any:
        return model.init(key, jnp.zeros((1, 28, 28)))

    def classify(params: Any, image: Array, rngs: Any = None) -> Array:
        logits: Any = model.apply(params, rows(image), rngs=rngs, deterministic=rngs is None)
        return logits

    def values(params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Values, None]:
        rngs = None if key is None else {"dropout": key}
        logits = classify(params, batch["image"], rngs)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"loss": loss, "accuracy": (logits.argmax(-1) == batch["label"]).astype(jnp.float32)}, carry

    def plots(params: Any, directory: Path) -> None:
        test = data.splits["test"]
        predicted = jax.jit(lambda image: classify(params, image).argmax(-1))(test["image"][:1000])
        wrong = [i for i in range(len(predicted)) if predicted[i] != test["label"][i]][:25]
        titles = [f"{test['label'][i]} read as {predicted[i]}" for i in wrong]
        plot_images(test["image"][wrong], titles, directory / "mistakes.png")

    return Task(data, init, values, plots=plots)


def load(config: DataConfig) -> DataSet:
    """Returns the data set that the config names."""
    if config.name == "embedded":
        return load_embedded_digits()
    return load_mnist(config.path, data_dir=config.tfds_dir)


def rows(image: UInt8[Array, "B 28 28"]) -> Float[Array, "B 28 28"]:
    """Returns the rows of images with pixels from 0 to 1."""
    return image.astype(jnp.float32) / 255
