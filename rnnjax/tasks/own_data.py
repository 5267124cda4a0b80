"""What tasks on data of your own share: the groups of their configs, and how sequences reach a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.config import DataConfig, check_held_out
from rnnjax.data.dataset import NO_DATA
from rnnjax.data.own.columns import Columns
from rnnjax.data.own.files import own_files
from rnnjax.data.own.sequence_set import SequenceSet
from rnnjax.data.own.sequences import Cuts, OwnSequences, Reading, load_sequences, read_own_inputs
from rnnjax.errors import require
from rnnjax.tasks.task import Batch, Field, Kept, Request, Task

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
      validation_fraction, test_fraction: of one file.
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


def load_own_sequences(config: SequencesConfig, kept: Kept | None, *, every_step: bool) -> OwnSequences:
    """Returns the sequences that a config names.

    Args:
      config: the group of the data.
      kept: what a run has kept, by which they are to be read, if anything.
      every_step: whether each step has a label, in place of each sequence.

    Raises:
      DataError: as `load_sequences`.
    """
    assert config.path is not None
    reading = Reading.from_json(kept) if kept else None
    options = {"every_step": every_step, "scale": config.scale, "reading": reading}
    return load_sequences(config.path, config.columns(), config.cuts(), **options)


def steps_of(batch: Batch) -> dict[str, Any]:
    """Returns the option of a model that says which steps there are: any if some are missing, else up to the length."""
    return {"mask": batch["mask"]} if "mask" in batch else {"lengths": batch["length"]}


def answers(
    config: SequencesConfig, reading: Reading, predict: Callable[[Any], Any], request: Request
) -> Iterator[tuple[str, int, Float[np.ndarray, "..."]]]:
    """Reads the data, labelled or not; yields the id of every sequence, its length, and what a model predicts of it.

    Args:
      config: the group of the data.
      reading: how the model's own data was read.
      predict: the model's prediction from a batch.
      request: the options of `python -m rnnjax.generate`.

    Raises:
      ConfigError: if there is a prompt.
      DataError: as the readers of files.
    """
    require(request.prompt is None, "the sequences of a file are answered; leave --prompt out, and give --data FILE")
    files = own_files(str(config.path), (".csv", ".npz", ".npy"))
    file = files["all"] if "all" in files else files["test"]
    return _answers(read_own_inputs(file, config.columns(), reading), reading, predict)


def _answers(
    sequences: SequenceSet, reading: Reading, predict: Callable[[Any], Any]
) -> Iterator[tuple[str, int, Float[np.ndarray, "..."]]]:
    for first in range(0, len(sequences.ids), _AT_ONCE):
        part = sequences.part(np.arange(first, min(first + _AT_ONCE, len(sequences.ids))))
        yield from zip(part.ids, part.lengths.tolist(), np.asarray(predict(_read_batch(part.values, reading))))


def _read_batch(values: Float[np.ndarray, "B T I"], reading: Reading) -> Batch:
    """Returns the same as `_raw_batch`, scaled in 64 bits, as the data of training was."""
    return {"inputs": jnp.asarray(reading.scaling.inputs(values)), "mask": jnp.asarray(~np.isnan(values).all(-1))}


Apply = Callable[..., Float[Array, "B ..."]]  # (params, batch, rngs=None)


def applied(model: Any) -> Apply:
    """Returns a function from parameters and a batch to what a model of sequences makes of it, by rngs with dropout."""

    def apply(params: Any, batch: Batch, rngs: Any = None) -> Float[Array, "B ..."]:
        return model.apply(params, batch["inputs"], **steps_of(batch), rngs=rngs, deterministic=rngs is None)

    return apply


def task_of_sequences(model: Any, reading: Reading, apply: Apply, values: Any, generate: Any) -> Task:
    """Returns a task without data, of a model of sequences, that is given values as they are in the data.

    Args:
      model: the model.
      reading: how data is read.
      apply: what `applied` returns of the model.
      values, generate: of the task.
    """

    def init(key: PRNGKeyArray) -> Any:
        return model.init(key, jnp.zeros((1, 1, reading.scaling.size)))

    def predict(params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B ..."]:
        return apply(params, _raw_batch(inputs["values"], reading))

    return Task(
        NO_DATA,
        init,
        values,
        generate=generate,
        kept=reading.to_json(),
        cell=model.cell,
        model=model,
        inputs={"values": Field(("B", "T", len(reading.scaling.names)), "float32")},
        predict=predict,
    )


def _raw_batch(values: Float[Array, "B T I"], reading: Reading) -> Batch:
    """Returns what a model reads of sequences of values; a step of which all are NaN is missing."""
    values = jnp.asarray(values)
    return {"inputs": reading.scaling.traced_inputs(values), "mask": ~jnp.isnan(values).all(-1)}
