"""Predicts the next item that a visitor of a shop clicks, from the last four."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.config import DataConfig, TrainConfig, build_cell, check_source
from rnnjax.data.click_rows import find_click_rows, read_click_rows
from rnnjax.data.click_windows import (
    LENGTH,
    ClickData,
    Windows,
    click_data,
    distinct_windows,
    item_ids,
    make_windows,
    split_windows,
)
from rnnjax.data.clicks import find_click_files, markov_clicks, read_clicks
from rnnjax.data.dataset import DataSet
from rnnjax.errors import ConfigError, DataError, require
from rnnjax.models.next_item import NextItem, SharedNextItem
from rnnjax.models.next_item_baselines import Successors, items_again, popular_items, recall_and_mrr
from rnnjax.tasks import task
from rnnjax.tasks.likeliest import likeliest
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Stream, Weighted

_AT = 20  # number of recommended items

_NAMES = ("yoochoose", "embedded", "sessions")


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    `data.name` is "yoochoose" for the clicks of the RecSys 2015 challenge, "embedded" for generated sessions, or
    "sessions" for your own at `data.path`: a file of clicks like those of the challenge, or rows of items in a file
    `NAME_x.txt` with the next ones in `NAME_y.txt`, such as `1000_index_x.txt` and `1000_index_y.txt`.

    Attributes:
      windows: number of training windows, the first in time; 0 takes four fifths of all.
      distinct: whether to leave out windows with the same four items as an earlier one.
      embedding: size of the embedding, shared by input and output layers; 0 reads items one-hot, as the source does.
      dropout: rate of dropout on the embedding and on the cell's last output; needs an embedding.
    """

    task: str = "navigation"
    windows: int = 0
    distinct: bool = False
    embedding: int = 0
    dropout: float = 0.0
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="yoochoose"))

    def check(self) -> None:
        super().check()
        made = "embedded", "the embedded clicks are generated"
        check_source(self.data, _NAMES, made=made, own=("sessions", "sessions"))
        enough = self.windows == 0 or self.windows >= 4
        require(enough, f"windows must be 0 for all, or at least 4, got {self.windows}")
        require(self.embedding >= 0, f"embedding must not be negative, got {self.embedding}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        dropped = self.dropout and not self.embedding
        require(not dropped, "dropout needs an embedding; set embedding, or use cell.dropout.output_rate")


class Task(task.Task):
    """Windows of four items, after which the fifth is to be predicted.

    `recall_20` and `mrr_20` are recall and mean reciprocal rank among the 20 items with the highest scores. An item
    that does not occur in training counts as a miss, and is left out of the loss.

    Its data raises `DataError` as `rnnjax.data.clicks` and `click_windows` do.
    """

    config: Config
    best_metric = "mrr_20"

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.items = np.array(self.kept["items"], np.int64)
        self.model = build_model(config, len(self.items))
        self.cell = self.model.cell
        self.inputs = {"items": Field(("B", 4), "int32")}
        # A shared vector an item goes with its place among the last four, and is no step by itself.
        self.stream = None if config.embedding else Stream(self._step_ids, self._likeliest)

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        data, items = load(config, np.array(kept["items"], np.int64) if kept else None)
        return dataclasses.replace(data, kept={"items": items.tolist()})

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        logits = self.apply(params, batch["items"], key=key)
        known = batch["next"] >= 0
        # Any label will do where the item is unknown, since its loss has the weight zero.
        label = jnp.where(known, batch["next"], 0)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return {"loss": Weighted(loss, known.astype(jnp.float32)), **ranking(logits, batch["next"])}, carry

    def scores(self, params: Any, split: str) -> dict[str, float]:
        return baseline_scores(ClickData(self.data, self.items), split)

    def generate(
        self, params: Any, *, prompt: str | None = None, n_best: int = 1, lines: Iterable[str] = ()
    ) -> Iterator[str]:
        recommend = jax.jit(lambda ids: jax.nn.softmax(self.apply(params, ids)[0]))
        for line in lines if prompt is None else [prompt]:
            probabilities = np.asarray(recommend(jnp.asarray(line_ids(line, self.items))))
            # Stable, so that items of the same probability are listed with the more clicked one first.
            best = np.argsort(-probabilities, kind="stable")[:n_best]
            yield "\t".join(f"{self.items[i]} {probabilities[i]:.4f}" for i in best)

    def _step_ids(self, line: str) -> Int[np.ndarray, " N"]:
        return item_ids(line_numbers(line), self.items)  # of items that are not known, -1

    def _likeliest(self, logits: Float[np.ndarray, " V"], *, n_best: int = 1) -> str:
        return likeliest(logits, n_best, lambda item: str(self.items[item]))


def build_model(config: Config, items: int) -> NextItem | SharedNextItem:
    """Returns the model that the config describes."""
    cell, dtype = build_cell(config.cell), jnp.dtype(config.dtype)
    if config.embedding:
        return SharedNextItem(cell, items, config.embedding, config.dropout, dtype)
    return NextItem(cell, items, dtype)


def load(config: Config, items: Int[np.ndarray, " V"] | None = None) -> ClickData:
    """Returns the data set that the config names, its items numbered as in `items` if these are given."""
    windows, source = load_windows(config.data)
    windows = distinct_windows(windows) if config.distinct else windows
    return click_data(config.data.name, source, split_windows(windows, config.windows or None), items)


def load_windows(config: DataConfig) -> tuple[Windows, str]:
    """Returns the windows of the clicks that the config names, and a phrase that names their source."""
    if config.name == "embedded":
        return make_windows(markov_clicks()), "sessions generated from a Markov chain, seed 0"
    rows = find_click_rows(Path(os.path.expanduser(config.path))) if config.path else None
    if rows is not None:
        windows = read_click_rows(*rows)
        clicked = windows.items.shape[1] - 1
        if clicked != LENGTH - 1:
            raise DataError(
                f"{rows[0]} has rows of {clicked} items, but {LENGTH - 1} are read: give the last of each row"
            )
        return windows, f"rows of items in {rows[0]} and {rows[1]}"
    files = find_click_files(config.path, own=config.name == "sessions")
    return make_windows(read_clicks(files)), f"clicks in {', '.join(map(str, files))}"


def ranking(logits: Float[Array, "B V"], following: Int[Array, " B"]) -> dict[str, Float[Array, " B"]]:
    """Returns accuracy, recall and reciprocal rank among the first 20 items, for every example.

    Args:
      logits: the score of every item.
      following: the item that was clicked; -1 if it does not occur in training.
    """
    score = jnp.take_along_axis(logits, jnp.maximum(following, 0)[:, None], axis=1)  # [B, 1]
    # Items with the same score rank before the item. "Not less" counts NaN, too, so that a NaN score is never a hit.
    # An unknown item gets a rank that no item has, so that it is a miss.
    rank = jnp.where(following >= 0, (~(logits < score)).sum(1), logits.shape[1] + _AT)
    hit = rank <= _AT
    return {
        "accuracy": (rank == 1).astype(jnp.float32),
        f"recall_{_AT}": hit.astype(jnp.float32),
        f"mrr_{_AT}": jnp.where(hit, 1 / rank, 0.0),
    }


def baseline_scores(clicks: ClickData, split: str) -> dict[str, float]:
    """Returns recall and MRR of three baselines.

    They recommend the most popular items, the items of the window, and the most frequent successors of its last item.
    """
    train, test = clicks.data.splits["train"], clicks.data.splits[split]
    size = min(_AT, len(clicks.items))
    successors = Successors(train["items"], train["next"], train["session"])
    baselines = {"popularity": popular_items, "last_items": items_again, "successors": successors}
    scores = {}
    for name, recommend in baselines.items():
        recall, mrr = recall_and_mrr(recommend(test["items"], size), test["next"])
        scores |= {f"{name}_recall_{_AT}": recall, f"{name}_mrr_{_AT}": mrr}
    return scores


def line_ids(line: str, items: Int[np.ndarray, " V"]) -> Int[np.ndarray, "1 4"]:
    """Returns the last four items of a line of item numbers; missing and unknown ones are -1.

    Raises:
      ConfigError: if the line contains anything but whole numbers.
    """
    try:
        numbers = line_numbers(line)[-4:]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # What is missing is missing at the beginning: the last click stays the last.
    ids = np.full((1, 4), -1, np.int32)
    ids[0, 4 - len(numbers) :] = item_ids(numbers, items)
    return ids


def line_numbers(line: str) -> Int[np.ndarray, " N"]:
    """Returns the item numbers of a line.

    Raises:
      ValueError: if the line contains anything but whole numbers.
    """
    try:
        return np.array([int(word) for word in line.replace(",", " ").split()], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"a line must be item numbers, such as 214536502 214536506, got {line!r}") from None
