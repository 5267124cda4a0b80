"""What tasks on data of your own share: the groups of their configs, and how sequences reach a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Cell
from rnnjax.config import DataConfig, build_cell, check_held_out
from rnnjax.data.dataset import DataSet
from rnnjax.data.own.columns import Columns
from rnnjax.data.own.files import own_files
from rnnjax.data.own.sequence_set import SequenceSet
from rnnjax.data.own.sequences import Cuts, Reading, load_sequences, read_own_inputs
from rnnjax.errors import require
from rnnjax.tasks import task
from rnnjax.tasks.task import Batch, Field, Kept

_AT_ONCE = 256  # sequences that are answered together


@dataclasses.dataclass
class OwnConfig(DataConfig):
    """Data of your own at `path`: one file, or a folder with `train`, `validation` and `test` files.

    Attributes:
      name: "own".
      time: the column of times in a csv file; "" takes one called time, timestamp, date, datetime, t or step, "none"
        the order of the rows.
      features: the columns that are read; none takes all that are nothing else.
      scale: whether features are standardised by mean and deviation of the training split.
      validation_fraction, test_fraction: the shares of one file that are for validation and for the test.
      whole: whether one file is all of every split: what `--data` gives to a finished run, if its training had another.
    """

    name: str = "own"
    time: str | None = ""
    features: tuple[str, ...] = ()
    scale: bool = True
    validation_fraction: float = 0.15
    test_fraction: float = 0.15
    whole: bool = False

    def read_other(self, path: str) -> None:
        super().read_other(path)
        self.whole = True

    def check(self) -> None:
        super().check()
        require(self.name == "own", f'data.name must be "own", got {self.name!r}')
        require(bool(self.path), "data of your own needs --config.data.path")
        check_held_out(self.validation_fraction, self.test_fraction)


@dataclasses.dataclass
class SequencesConfig(OwnConfig):
    """Labelled sequences of your own: a csv file in long form, an npz archive, or an npy array beside its labels.

    Attributes:
      id: the column of a csv file with the id of a row's sequence; "" takes one called id, sequence, session or series,
        else the first that is not one of times.
      label: the column of labels; "" takes one called label, class, target or tag, else y where it is no coordinate
        behind x, else the last of the others.
      split: "fraction" splits the sequences of every class alike; "time" trains on those that end first.
    """

    id: str = ""
    label: str = ""
    split: str = "fraction"

    def check(self) -> None:
        super().check()
        require(self.split in ("fraction", "time"), f'data.split must be "fraction" or "time", got {self.split!r}')

    def columns(self) -> Columns:
        """Returns the columns of a csv file."""
        return Columns(self.id, self.time, self.label, self.features)

    def cuts(self) -> Cuts:
        """Returns how one file is split."""
        return Cuts(self.validation_fraction, self.test_fraction, self.split == "time", self.whole)


class SequencesTask(task.Task):
    """A task on labelled sequences `[B, T, I]` of any lengths; a subclass makes the model, and judges its logits.

    Its data raises `DataError` as `rnnjax.data.own.sequences.load_sequences` does.
    """

    cell: Cell
    every_step: bool  # whether each step has a label, in place of each sequence

    def __init__(self, config: Any, data: DataSet):
        super().__init__(config, data)
        self.reading, self.cell = Reading.from_json(self.kept), build_cell(config.cell)
        self.inputs = {"values": Field(("B", "T", len(self.reading.scaling.names)), "float32")}

    @classmethod
    def read(cls, config: Any, kept: Kept) -> DataSet:
        data: SequencesConfig = config.data
        assert data.path is not None
        options = {"every_step": cls.every_step, "scale": data.scale}
        reading = Reading.from_json(kept) if kept else None
        own = load_sequences(data.path, data.columns(), data.cuts(), **options, reading=reading)
        return dataclasses.replace(own.data, kept=own.reading.to_json())

    def init(self, key: PRNGKeyArray) -> Any:
        return self.model.init(key, jnp.zeros((1, 1, self.reading.scaling.size)))

    def logits(self, params: Any, batch: Batch, key: PRNGKeyArray | None = None) -> Float[Array, "B ..."]:
        """Returns the scores of the classes, from inputs with a mask if some are missing, else with lengths."""
        steps = {"mask": batch["mask"]} if "mask" in batch else {"lengths": batch["length"]}
        return self.apply(params, batch["inputs"], key=key, **steps)

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B ..."]:
        """Returns the logits of sequences as they are in the data; a step of which all values are NaN is missing."""
        return self.logits(params, _raw_batch(inputs["values"], self.reading))

    def unlabelled(self) -> SequenceSet:
        """Reads the data, labelled or not.

        Raises:
          DataError: as the readers of files.
        """
        files = own_files(str(self.config.data.path), (".csv", ".npz", ".npy"))
        file = files["all"] if "all" in files else files["test"]
        return read_own_inputs(file, self.config.data.columns(), self.reading)

    def chances(self, params: Any, sequences: SequenceSet) -> Iterator[tuple[str, int, Float[np.ndarray, "..."]]]:
        """Yields the id of every sequence, its length, and the probabilities of the classes."""
        likely = jax.jit(lambda batch: jax.nn.softmax(self.logits(params, batch)))
        for first in range(0, len(sequences.ids), _AT_ONCE):
            part = sequences.part(np.arange(first, min(first + _AT_ONCE, len(sequences.ids))))
            found = np.asarray(likely(_read_batch(part.values, self.reading)))
            yield from zip(part.ids, part.lengths.tolist(), found)


def _read_batch(values: Float[np.ndarray, "B T I"], reading: Reading) -> Batch:
    """Returns the same as `_raw_batch`, scaled in 64 bits, as the data of training was."""
    return {"inputs": jnp.asarray(reading.scaling.inputs(values)), "mask": jnp.asarray(~np.isnan(values).all(-1))}


def _raw_batch(values: Float[Array, "B T I"], reading: Reading) -> Batch:
    """Returns what a model reads of sequences of values; a step of which all are NaN is missing."""
    values = jnp.asarray(values)
    return {"inputs": reading.scaling.traced_inputs(values), "mask": ~jnp.isnan(values).all(-1)}
