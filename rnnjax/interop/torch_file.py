"""Files that `torch.load` reads, written without PyTorch."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from rnnjax.interop.safetensors import write_bytes

_STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.float64): "DoubleStorage"}


def write_torch(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as PyTorch saves a `state_dict`: ``module.load_state_dict(torch.load(path))`` loads it.

    The file is what `torch.save` has written since version 1.6: an uncompressed zip archive of a pickle, which names
    tensors and where their numbers are, and those numbers. (``weights_only=True`` reads it.)

    Args:
      path: of the file, which is replaced if it exists.
      state_dict: arrays of float32 or float64 by name, such as `to_torch` returns them.

    Raises:
      TypeError: for an array of another type.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _records(state_dict):
            # Without the date, so that equal arrays make equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    write_bytes(Path(path), buffer.getvalue())


def _records(state_dict: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """Yields the files in the archive, by name and content."""
    yield "data.pkl", _pickled(state_dict)
    yield "byteorder", b"little"
    for number, array in enumerate(state_dict.values()):
        yield f"data/{number}", array.astype(array.dtype.newbyteorder("<")).tobytes()
    yield "version", b"3\n"


def _pickled(state_dict: Mapping[str, np.ndarray]) -> bytes:
    """Returns the pickle of a dict of tensors, in the operations of pickle's protocol 2."""
    items = b"".join(_text(name) + _tensor(n, name, array) for n, (name, array) in enumerate(state_dict.items()))
    return b"\x80\x02}(" + items + b"u."


def _tensor(number: int, name: str, array: np.ndarray) -> bytes:
    """Returns ``_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)``."""
    if array.dtype not in _STORAGES:
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    storage = (
        b"(" + _text("storage") + _named("torch", _STORAGES[array.dtype]) + _text(str(number)) + _text("cpu")
    ) + _number(array.size)
    arguments = storage + b"tQ" + _number(0) + _tuple(list(array.shape)) + _tuple(strides) + b"\x89"
    return (
        _named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + _named("collections", "OrderedDict") + b")RtR"
    )


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number) if number < 2**31 else b"\x8a\x08" + struct.pack("<q", number)


def _tuple(numbers: list[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
