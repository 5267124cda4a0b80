"""Labelled sequences of your own, read and split into `train`, `validation` and `test`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rnnjax.data.dataset import Arrays, DataSet, content_checksum
from rnnjax.data.own.arrays import read_array_file, read_array_inputs
from rnnjax.data.own.columns import Columns
from rnnjax.data.own.files import learnt_from, own_files
from rnnjax.data.own.long_form import read_inputs, read_long_form
from rnnjax.data.own.scaling import Scaling, learn_scaling
from rnnjax.data.own.sequence_set import NO_LABEL, SequenceSet
from rnnjax.errors import DataError

_log = logging.getLogger(__name__)

UNKNOWN = -1  # the class of a label that training has not
_MOST_SHOWN = 10  # labels in a message
SPLITS = ("train", "validation", "test")


class Cuts(NamedTuple):
    """How one file of sequences becomes three splits.

    Attributes:
      validation, test: their fractions.
      by_time: whether training has the sequences that end first, and the test those that end last; otherwise every
        class is split alike, by a digest of the ids.
      whole: whether one file is not cut, but all of every split, unless it is that of the training of a given reading.
    """

    validation: float
    test: float
    by_time: bool = False
    whole: bool = False


class Reading(NamedTuple):
    """What a model needs to read other data as that of its training.

    Attributes:
      scaling: of the features.
      classes: names of the classes, in the order of the model's answers.
      checksum: of the file that was read so, if it was one.
    """

    scaling: Scaling
    classes: tuple[str, ...]
    checksum: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        return {"scaling": self.scaling.to_json(), "classes": list(self.classes), "checksum": self.checksum}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """Returns that of which `to_json` made `values`."""
        return cls(Scaling.from_json(values["scaling"]), tuple(values["classes"]), values["checksum"])


class OwnSequences(NamedTuple):
    """The data set of labelled sequences, and how it was read."""

    data: DataSet
    reading: Reading


def load_sequences(
    path: str, columns: Columns, cuts: Cuts, *, every_step: bool, scale: bool, reading: Reading | None = None
) -> OwnSequences:
    """Loads labelled sequences: one csv, npz or npy file, or a folder with one for each split.

    Fields are ``inputs [N, T, F]`` float32, ``length [N]``, ``mask [N, T]`` if steps within a length are missing, and
    ``label [N]`` or ``[N, T]`` int32, `UNKNOWN` where there is none or training does not have it. Scaling and classes
    are those of the training split.

    Args:
      path: of the file or the folder.
      columns: of a csv file.
      cuts: how one file is split.
      every_step: whether each step has a label, in place of each sequence.
      scale: whether features are standardised.
      reading: of a trained model, by which the data is to be read; nothing is learnt then.

    Raises:
      DataError: for what is wrong with the data.
    """
    files = own_files(path, (".csv", ".npz", ".npy"))
    if reading is not None and not columns.features and ".csv" in {file.suffix.lower() for file in files.values()}:
        columns = columns._replace(features=reading.scaling.names)
    read = {name: _read(file, columns, every_step=every_step) for name, file in files.items()}
    checksum = read["all"].checksum() if "all" in read else ""
    if "all" not in read:
        parts = read
        _check_alike(parts)
    elif cuts.whole and checksum != learnt_from(reading):
        parts = dict.fromkeys(SPLITS, read["all"])
    else:
        parts = {name: read["all"].part(rows) for name, rows in split_rows(read["all"], cuts).items()}
    train = parts["train"]
    if reading is None:
        reading = Reading(learn_scaling(train.names, train.values, scale=scale), _classes(train))
    reading = reading._replace(checksum=checksum)
    if train.names != reading.scaling.names:
        trained = ", ".join(reading.scaling.names)
        raise DataError(f"{path} has the features {', '.join(train.names)}, but the model {trained}: give the same")
    if not cuts.whole:
        _require_known(path, train, reading)
    splits = {name: _fields(name, part, reading) for name, part in parts.items()}
    source = f"{sum(len(each.ids) for each in read.values()):,} sequences of {', '.join(train.names)} in {path}"
    name = Path(os.path.expanduser(path)).stem
    return OwnSequences(DataSet(name, splits, source, content_checksum(splits)), reading)


def _read(file: Path, columns: Columns, *, every_step: bool) -> SequenceSet:
    if file.suffix.lower() == ".csv":
        return read_long_form(file, columns, every_step=every_step)
    return read_array_file(file, every_step=every_step)


def read_own_inputs(file: Path, columns: Columns, reading: Reading) -> SequenceSet:
    """Returns the sequences of a file without labels, whether it has them or not, for a trained model.

    Args:
      file: a csv, npz or npy file.
      columns: of a csv file.
      reading: how the model's own data was read.

    Raises:
      DataError: for what is wrong with the file, or where it has other features.
    """
    names = reading.scaling.names
    if file.suffix.lower() == ".csv":
        return read_inputs(file, columns, names)
    sequences = read_array_inputs(file)
    if sequences.names != names:
        raise DataError(
            f"{file} has the features {', '.join(sequences.names)}, but the model {', '.join(names)}: give the same"
        )
    return sequences


def split_rows(sequences: SequenceSet, cuts: Cuts) -> dict[str, Int[np.ndarray, " n"]]:
    """Returns which sequences are in each split; the same for every seed and order of the file.

    Raises:
      DataError: if a split would be empty, or the sequences have no times to be split by.
    """
    order = _by_time(sequences) if cuts.by_time else _by_class(sequences)
    count = len(order)
    sizes = {"test": round(count * cuts.test), "validation": round(count * cuts.validation)}
    held_out = sum(sizes.values())
    if min(*sizes.values(), count - held_out) < 1:
        raise DataError(
            f"{sequences.file} has {count} sequences, too few for training, validation and test: give more, or a "
            "folder with train, validation and test files"
        )
    if cuts.by_time:
        order = order[::-1]
    ends = np.cumsum(list(sizes.values()))
    test, validation, train = np.split(order, ends)
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def _by_time(sequences: SequenceSet) -> Int[np.ndarray, " N"]:
    if sequences.ends is None:
        raise DataError(
            f"{sequences.file} has no times: name their column with --config.data.time, or leave data.split out"
        )
    return np.argsort(sequences.ends, kind="stable")


def _by_class(sequences: SequenceSet) -> Int[np.ndarray, " N"]:
    """Returns an order whose every part has the classes in about the same proportions, but mixed otherwise.

    Within its class a sequence has the place of its id's digest, counted from 0 to 1; all are ordered by these places.
    """
    digests = np.array([hashlib.sha256(id.encode()).hexdigest() for id in sequences.ids])
    labels = sequences.labels if sequences.labels.ndim == 1 else np.full(len(digests), NO_LABEL)
    place = np.empty(len(digests))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows[np.argsort(digests[rows])]] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((digests, place))


def _check_alike(parts: Mapping[str, SequenceSet]) -> None:
    """Raises `DataError` if files of splits have other features, or one id is in two of csv files."""
    train = parts["train"]
    for name, part in parts.items():
        if part.names != train.names:
            raise DataError(
                f"{part.file} has the features {', '.join(part.names)}, but {train.file} {', '.join(train.names)}: "
                "give all files the same"
            )
        shared = set(part.ids) & set(train.ids) if name != "train" and part.file.suffix.lower() == ".csv" else set()
        if shared:
            _log.warning("%s and %s both have a sequence %r; is it the same?", train.file, part.file, min(shared))


def _classes(train: SequenceSet) -> tuple[str, ...]:
    """Returns the labels of the training split, numbers in their order, others by the alphabet.

    Raises:
      DataError: if there is one alone.
    """
    found = {str(label) for label in np.unique(train.labels)} - {NO_LABEL}
    if len(found) < 2:
        got = f"one class, {min(found)!r}," if found else "no labels"
        raise DataError(f"{train.file} has {got} in its training split: give sequences of at least two classes")
    return tuple(sorted(found, key=int) if all(label.isdecimal() for label in found) else sorted(found))


def _unknown(part: SequenceSet, reading: Reading) -> list[str]:
    """Returns the labels that are none of the classes."""
    return sorted({str(label) for label in np.unique(part.labels)} - {NO_LABEL, *reading.classes})


def _require_known(path: str, train: SequenceSet, reading: Reading) -> None:
    """Raises `DataError` if a model that has its classes would be trained on labels which are none of them."""
    unknown = _unknown(train, reading)
    if unknown:
        raise DataError(
            f"the training split of {path} has the labels {', '.join(unknown[:_MOST_SHOWN])}, but the model it is "
            f"read for knows {', '.join(reading.classes[:_MOST_SHOWN])} alone: give data with these labels"
        )


def _fields(split: str, part: SequenceSet, reading: Reading) -> Arrays:
    """Returns the arrays of a split.

    Raises:
      DataError: if not one label is known.
    """
    codes = {label: code for code, label in enumerate(reading.classes)}
    labels, inverse = np.unique(part.labels, return_inverse=True)
    unknown = _unknown(part, reading)
    if unknown and not set(codes) & {str(label) for label in labels}:
        raise DataError(
            f"{part.file} has not one label that the model knows, but {', '.join(unknown[:_MOST_SHOWN])} in place of "
            f"{', '.join(reading.classes[:_MOST_SHOWN])}: correct the labels, or the column that they are read from"
        )
    if unknown:
        _log.warning("the %s split has labels that training has not, which count as errors: %s", split, unknown)
    table = np.array([codes.get(str(label), UNKNOWN) for label in labels], np.int32)
    steps = part.steps()
    fields = {
        "inputs": reading.scaling.inputs(part.values),
        "length": part.lengths.astype(np.int32),
        "label": table[inverse].reshape(part.labels.shape),
    }
    within = np.arange(steps.shape[1]) < part.lengths[:, None]
    if part.labels.ndim == 2:
        fields["counted"] = steps & (part.labels != NO_LABEL)
    if (within != steps).any():
        fields["mask"] = steps
    return fields
