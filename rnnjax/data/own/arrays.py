"""Labelled sequences in NumPy's files: an npz archive, or an npy array beside its labels."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from rnnjax.data.files import readable
from rnnjax.data.own.sequence_set import NO_LABEL, SequenceSet, padded_sequences
from rnnjax.data.own.table import LARGEST
from rnnjax.errors import ConfigError, DataError
from rnnjax.memory import require_memory

_INPUTS, _LABELS, _LENGTHS = ("x", "inputs", "values", "data"), ("y", "labels", "label", "targets"), ("lengths",)
_BEGINNINGS = (b"PK", b"\x93NUMPY")  # of npz and npy files; NumPy takes anything else for a pickle
_RAGGED = (
    "give sequences of unequal length as values [steps of all, features] one behind the other with lengths [N], padded "
    "as [N, T, features] with lengths [N], or as a csv file in long form"
)


def read_array_file(file: Path, *, every_step: bool) -> SequenceSet:
    """Returns the sequences in a file.

    An npz archive holds `x`, `y` and perhaps `lengths`; of NAME.npy the labels are in NAME_labels.npy beside it, and
    lengths in NAME_lengths.npy. Inputs are ``[N, T, I]`` (``[N, T]`` for one feature), or with lengths the steps of all
    sequences one behind the other, ``[R, I]``. Labels are whole numbers or words, ``[N]``, or for every step ``[N, T]``
    or ``[R]``, where negative numbers stand for none.

    Args:
      file: the npz or npy file.
      every_step: whether each step has a label of its own, in place of each sequence.

    Raises:
      DataError: for a file that cannot be read, or arrays that do not fit each other.
    """
    arrays = _archive(file) if file.suffix.lower() == ".npz" else _beside(file)
    if "y" not in arrays and file.suffix.lower() == ".npy":
        raise DataError(f"{file} needs its labels in {file.stem}_labels.npy beside it: put them there")
    labels = _labels_as_text(file, _named(file, arrays, _LABELS, "labels"), every_step=every_step)
    return _sequences(file, arrays, labels, every_step=every_step)


def read_array_inputs(file: Path) -> SequenceSet:
    """Returns the sequences in a file without labels, whether it has them or not.

    Raises:
      DataError: for a file that cannot be read, or lengths that do not fit.
    """
    arrays = _archive(file) if file.suffix.lower() == ".npz" else _beside(file)
    return _sequences(file, arrays, None, every_step=False)


def _sequences(
    file: Path, arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, *, every_step: bool
) -> SequenceSet:
    """Returns the sequences of arrays; without labels, they have none."""
    inputs = _named(file, arrays, _INPUTS, "inputs")
    lengths = next((arrays[name] for name in _LENGTHS if name in arrays), None)
    if inputs.dtype.kind not in "fiub":
        raise DataError(f"{file} has inputs of type {inputs.dtype}: give numbers")
    inputs = inputs.astype(np.float64)
    large = np.abs(inputs) > LARGEST
    if large.any():
        raise DataError(f"{file} has a too large input at {_place(large)}: correct it, or write NaN if it is missing")
    if lengths is not None:
        lengths = _whole_lengths(file, lengths)
    if labels is None:
        labels = np.full(len(inputs if lengths is None else lengths), NO_LABEL)
    if lengths is not None and (len(lengths) != len(inputs) or inputs.ndim == 1):
        inputs, labels = _cut(file, inputs, labels, lengths, every_step=every_step)
    if inputs.ndim == 2:
        inputs = inputs[..., None]
    return _checked(file, inputs, labels, lengths, every_step=every_step)


def _archive(file: Path) -> dict[str, np.ndarray]:
    loaded = _loaded(file)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise DataError(f"{file} is no npz archive: write it with numpy.savez")
    with loaded:
        unpacked = sum(entry.file_size for entry in loaded.zip.infolist())  # pyright: ignore[reportOptionalMemberAccess]
        require_memory(3 * unpacked, f"the arrays in {file}", "give fewer or shorter sequences")
        return {name: _content(file, lambda name=name: loaded[name]) for name in loaded.files}


def _beside(file: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of NAME.npy, NAME_labels.npy and NAME_lengths.npy by the names that an archive has."""
    found: dict[str, np.ndarray] = {"x": _loaded(file)}
    for part, name in (("labels", "y"), ("lengths", "lengths")):
        other = file.with_name(f"{file.stem}_{part}.npy")
        if other.exists():
            found[name] = _loaded(other)
    return found


def _loaded(file: Path) -> Any:
    def load() -> Any:
        with readable(file, copies=3).open("rb") as opened:
            if not opened.read(6).startswith(_BEGINNINGS):
                raise ValueError("it does not begin as they do")
        return np.load(file, allow_pickle=False)

    return _content(file, load)


def _content(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise DataError(f"{file} does not exist: give the data with --config.data.path") from None
    except (ConfigError, DataError):
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise DataError(f"{file} holds Python objects, which may run code when they are read: {_RAGGED}") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{file} cannot be read as NumPy's arrays ({reason}): write it again") from error
    except Exception as error:  # damaged archives raise errors of many types
        raise DataError(f"{file} cannot be read as NumPy's arrays ({type(error).__name__}): write it again") from error


def _named(file: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str], what: str) -> np.ndarray:
    found = [name for name in arrays if name.lower() in names]
    if len(found) != 1:
        held = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise DataError(f"{file} must hold one array of {what}, called {' or '.join(names)}, got {held}: rename one")
    array = arrays[found[0]]
    if not array.size or not array.ndim:
        raise DataError(f"{file} has {what} of shape {list(array.shape)}: give at least one sequence with one step")
    return array


def _whole_lengths(file: Path, lengths: np.ndarray) -> Int[np.ndarray, " N"]:
    whole = lengths.ndim == 1 and lengths.dtype.kind in "fiu" and len(lengths) and bool((lengths % 1 == 0).all())
    if not whole:
        raise DataError(
            f"{file} has lengths of type {lengths.dtype} and shape {list(lengths.shape)}: give whole numbers [N]"
        )
    wrong = np.flatnonzero((lengths < 1) | (lengths > 2**31))
    if len(wrong):
        raise DataError(f"{file} has the length {lengths[wrong[0]]} of sequence {wrong[0]}: it must be at least 1")
    return lengths.astype(np.int64)


def _labels_as_text(file: Path, labels: np.ndarray, *, every_step: bool) -> Shaped[np.ndarray, "..."]:
    if labels.dtype.kind in "SU":
        return np.char.strip(labels.astype(str))
    if labels.dtype.kind not in "fiub":
        raise DataError(f"{file} has labels of type {labels.dtype}: give whole numbers or words")
    numbers = labels.astype(np.float64)
    none = np.isnan(numbers) | (numbers < 0)
    wrong = ~none & (numbers % 1 != 0)
    if wrong.any():
        value, place = numbers[wrong][0], _place(wrong)
        raise DataError(
            f"{file} has the label {value:g} at {place}, which is no class: give whole numbers or words, or use "
            "configs/own.py:forecast to predict numbers"
        )
    if none.any() and not every_step:
        raise DataError(
            f"{file} has the label {numbers[none][0]:g} at {_place(none)}: give whole numbers from 0 on, or words"
        )
    # Whole numbers as they are, since float64 has not all of the large ones.
    whole = labels if labels.dtype.kind in "iu" else np.where(none, 0, numbers).astype(np.int64)
    return np.where(none, NO_LABEL, whole.astype(str))


def _place(wrong: np.ndarray) -> str:
    return f"index {[int(each[0]) for each in np.nonzero(wrong)]}"


def _cut(
    file: Path, inputs: np.ndarray, labels: np.ndarray, lengths: Int[np.ndarray, " N"], *, every_step: bool
) -> tuple[Float[np.ndarray, "N T I"], Shaped[np.ndarray, "N ..."]]:
    """Returns sequences that lie one behind the other, and their labels, padded."""
    total = int(lengths.sum())
    if inputs.ndim > 2 or len(inputs) != total:
        raise DataError(
            f"{file} has {len(lengths)} lengths with a sum of {total}, which fit neither {len(inputs)} sequences nor "
            f"{len(inputs)} steps, the inputs being {list(inputs.shape)}: {_RAGGED}"
        )
    rows = inputs[:, None] if inputs.ndim == 1 else inputs
    if every_step and labels.shape == (total,):
        labels = padded_sequences(labels, lengths, NO_LABEL)
    return padded_sequences(rows, lengths, np.nan), labels


def _checked(
    file: Path, inputs: np.ndarray, labels: np.ndarray, lengths: np.ndarray | None, *, every_step: bool
) -> SequenceSet:
    if inputs.ndim != 3 or not inputs.size:
        raise DataError(f"{file} has inputs of shape {list(inputs.shape)}: give [N, T, features]")
    wanted = inputs.shape[: 2 if every_step else 1]
    if labels.shape != wanted:
        hint = "" if every_step or labels.shape != inputs.shape[:2] else " (configs/own.py:tag takes one a step)"
        raise DataError(
            f"{file} has labels of shape {list(labels.shape)}, but inputs of shape {list(inputs.shape)}: give "
            f"labels of shape {list(wanted)}{hint}"
        )
    count, longest, features = inputs.shape
    lengths = np.full(count, longest) if lengths is None else lengths
    if lengths.max() > longest:
        row = int(lengths.argmax())
        raise DataError(
            f"{file} has the length {lengths[row]} of sequence {row}, but inputs of {longest} steps: correct the length"
        )
    past = np.arange(longest) >= lengths[:, None]
    if every_step:
        labels = np.where(past, NO_LABEL, labels)
    names = tuple(f"feature {number}" for number in range(1, features + 1))
    ids = [str(row) for row in range(count)]
    return SequenceSet(file, names, ids, np.where(past[..., None], np.nan, inputs), lengths, labels).checked()
