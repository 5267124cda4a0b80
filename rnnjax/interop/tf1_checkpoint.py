"""Checkpoints of TensorFlow, read without TensorFlow.

A checkpoint ``model.ckpt-1000`` is a table, ``model.ckpt-1000.index``, and files of numbers,
``model.ckpt-1000.data-00000-of-00001``. The table is one of LevelDB's: blocks of sorted entries whose keys are stored
without what they share with the key before, an index block that says where they are, and a footer that says where that
is. Its keys are names of variables, its values protocol buffers: a type, a shape, a file, a place in it and a length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes

# By their numbers in tensorflow/core/framework/types.proto; texts and others are not read.
_TYPES = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    14: ml_dtypes.bfloat16,
    17: np.uint16,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
}


class Entry(NamedTuple):
    """Where a variable is: its type's number, its shape, the file, and the place in it."""

    dtype: int
    shape: tuple[int, ...]
    file: int
    offset: int
    size: int
    sliced: bool


def read_tf1_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the variables of a TensorFlow checkpoint by name, for `from_tf1`.

    Args:
      path: the checkpoint without an ending, such as ``"run/model.ckpt-1000"``, as `tf.train.Saver.save` returned it.

    Returns:
      All variables that are numbers. (Those of an optimiser too, which `from_tf1` does not read.)

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: if it is damaged, or of a kind that is not read: of before TensorFlow 0.12, compressed, or with
        variables in parts.
    """
    path = Path(path)
    index = path.with_name(f"{path.name}.index")
    try:
        entries = dict(_entries(index.read_bytes()))
        shards = _varint_field(_fields(entries.pop("")), 1) or 1
        described = {name: _entry(value) for name, value in entries.items()}
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{index} is no index of a TensorFlow checkpoint, is damaged, or is compressed") from None
    files = [path.with_name(f"{path.name}.data-{n:05d}-of-{shards:05d}").read_bytes() for n in range(shards)]
    return {name: _array(index, name, entry, files) for name, entry in described.items() if entry.dtype in _TYPES}


def _array(index: Path, name: str, entry: Entry, files: list[bytes]) -> np.ndarray:
    dtype = np.dtype(_TYPES[entry.dtype]).newbyteorder("<")
    count = math.prod(entry.shape)
    if entry.sliced:
        raise ValueError(f"{index} has {name} in parts, as partitioned variables are, which is not read")
    content = files[entry.file][entry.offset : entry.offset + entry.size] if entry.file < len(files) else b""
    if not len(content) == entry.size == count * dtype.itemsize:
        raise ValueError(f"{name} has not the bytes that {index} says, {entry.size} at {entry.offset}: it is damaged")
    return np.frombuffer(content, dtype).reshape(entry.shape).astype(dtype.newbyteorder("="))


def _entries(table: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the keys and values of a table."""
    if len(table) < _FOOTER or int.from_bytes(table[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as one")
    footer = table[-_FOOTER:]
    _, position = _handle(footer, 0)  # of the block of filters
    where, _ = _handle(footer, position)
    for _, handle in _block(table, where):
        for key, value in _block(table, _handle(handle, 0)[0]):
            yield key.decode(), value


def _block(table: bytes, where: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block."""
    begin, size = where
    content = table[begin : begin + size]
    if len(content) != size or table[begin + size : begin + size + 1] != b"\0":
        raise ValueError("a block is missing or compressed")
    restarts = int.from_bytes(content[-4:], "little")
    end, position, key = size - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = _varint(content, position)
        unshared, position = _varint(content, position)
        length, position = _varint(content, position)
        key = key[:shared] + content[position : position + unshared]
        position += unshared
        yield key, content[position : position + length]
        position += length


def _handle(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Returns a place, as offset and size, and the position after it."""
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return (offset, size), position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Returns a number of seven bits a byte, the lowest first, and the position after it."""
    number = shift = 0
    while True:
        byte = content[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position


def _fields(message: bytes) -> list[tuple[int, Any]]:
    """Returns the fields of a protocol buffer: their numbers, and numbers or bytes."""
    fields, position = [], 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 == 0:
            value, position = _varint(message, position)
        else:
            size, position = {1: (8, position), 5: (4, position)}.get(tag & 7) or _varint(message, position)
            value = message[position : position + size]
            position += size
        fields.append((tag >> 3, value))
    return fields


def _varint_field(fields: list[tuple[int, Any]], number: int) -> int:
    """Returns the value of a field that is a number; 0 without it."""
    value = next((value for field, value in fields if field == number), 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _entry(message: bytes) -> Entry:
    """Returns what a BundleEntryProto of tensorflow/core/protobuf/tensor_bundle.proto says."""
    fields = _fields(message)
    shape = next((value for field, value in fields if field == 2), b"")
    sizes = tuple(_varint_field(_fields(size), 1) for field, size in _fields(shape) if field == 2)
    dtype, file, offset, size = (_varint_field(fields, number) for number in (1, 3, 4, 5))
    return Entry(dtype, sizes, file, offset, size, any(field == 7 for field, _ in fields))
