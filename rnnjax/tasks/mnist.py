"""Classifies handwritten digits, read row by row or pixel by pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from rnnjax.config import DataConfig, TrainConfig, build_cell, check_source
from rnnjax.data.dataset import DataSet
from rnnjax.data.embedded import load_embedded_digits
from rnnjax.data.mnist import load_mnist
from rnnjax.errors import require
from rnnjax.models.classifier import SequenceClassifier
from rnnjax.plots import plot_images
from rnnjax.tasks import task
from rnnjax.tasks.task import Batch, Field, Kept, Metrics

_CLASSES = 10


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task: `data.name` is "mnist", or "embedded" for the 5,000 digits of an installed package.

    Attributes:
      pixels: whether an image is a sequence of 784 pixels, not of 28 rows.
      permutation: if given, the seed of an order of the pixels other than that in which they lie.
      pooled: whether the mean of all outputs is classified, not the last.
    """

    task: str = "mnist"
    pixels: bool = False
    permutation: int | None = None
    pooled: bool = False
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="mnist"))

    def check(self) -> None:
        super().check()
        made = "embedded", "the embedded digits come with a package"
        check_source(self.data, ("mnist", "embedded"), made=made)
        require(self.permutation is None or self.pixels, "permutation is of pixels; set pixels, or leave it out")
        allowed = self.permutation is None or self.permutation >= 0
        require(allowed, f"permutation must not be negative, got {self.permutation}")


class Task(task.Task):
    """Images `[B, 28, 28]` are sequences of 28 rows or of 784 pixels, classified after the last into the ten digits.

    Its data raises `DataError` as `rnnjax.data.mnist.load_mnist` and `load_embedded_digits` do.
    """

    config: Config

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.cell = build_cell(config.cell)
        self.model = SequenceClassifier(self.cell, _CLASSES, jnp.dtype(config.dtype), config.pooled)
        self.inputs = {"image": Field(("B", 28, 28), "uint8")}

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        return load(config.data)

    def init(self, key: PRNGKeyArray) -> Any:
        return self.model.init(key, self.sequences(self.inputs["image"].zeros()))

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        logits = self.apply(params, self.sequences(batch["image"]), key=key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"loss": loss, "accuracy": (logits.argmax(-1) == batch["label"]).astype(jnp.float32)}, carry

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B 10"]:
        return self.apply(params, self.sequences(inputs["image"]))

    def plots(self, params: Any, directory: Path) -> None:
        test = self.data.splits["test"]
        scores = jax.jit(self.predict)(params, {"image": test["image"][:1000]})
        predicted = np.asarray(scores).argmax(-1)  # which is read one by one
        wrong = [i for i in range(len(predicted)) if predicted[i] != test["label"][i]][:25]
        titles = [f"{test['label'][i]} read as {predicted[i]}" for i in wrong]
        about = "Digits of the test split that are misread, the first 25 at most"
        plot_images(test["image"][wrong], titles, directory / "mistakes.png", about=about)

    def sequences(self, image: UInt8[Array, "B 28 28"]) -> Float[Array, "B T I"]:
        """Returns images as the model reads them."""
        return pixels(image, self.config.permutation) if self.config.pixels else rows(image)


def load(config: DataConfig) -> DataSet:
    """Returns the data set that the config names."""
    if config.name == "embedded":
        return load_embedded_digits()
    return load_mnist(config.path, data_dir=config.tfds_dir)


def rows(image: UInt8[Array, "B 28 28"]) -> Float[Array, "B 28 28"]:
    """Returns the rows of images with pixels from 0 to 1."""
    return image.astype(jnp.float32) / 255


def pixels(image: UInt8[Array, "B 28 28"], seed: int | None) -> Float[Array, "B 784 1"]:
    """Returns the pixels of images, from 0 to 1, one after another, in the order that a seed gives (None: as they lie).

    The order is ``np.random.RandomState(seed).permutation(784)``, the same with every version of NumPy.
    """
    flat = rows(image).reshape(image.shape[0], -1, 1)
    return flat if seed is None else flat[:, np.random.RandomState(seed).permutation(flat.shape[1])]
