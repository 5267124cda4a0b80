"""Files of arrays by name in the safetensors format, which every framework reads and which hold no code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rnnjax.files import part_of

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _TYPES.items()}
_LARGEST_HEADER = 100_000_000  # bytes, as the format says


def write_safetensors(path: str | Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays by name into a safetensors file.

    The file is 8 bytes with the length of a header in JSON, that header, which has the type, shape and place of every
    array, and the arrays' bytes.

    Args:
      path: of the file, which is replaced if it exists.
      arrays: the arrays by name, such as `to_arrays` returns them.
      metadata: texts by name that are kept in the header.

    Raises:
      TypeError: for an array of a type that the format does not have.

    Example:
      >>> import pathlib, tempfile, numpy as np
      >>> from rnnjax.interop import read_safetensors, write_safetensors
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors"
      >>> write_safetensors(path, {"w": np.ones((2, 3), np.float32)})
      >>> read_safetensors(path)["w"].shape
      (2, 3)
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, end = [], 0
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype not in _NAMES:
            raise TypeError(f"{name} is of type {array.dtype}, which safetensors does not have")
        content = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes()
        begin, end = end, end + len(content)
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
        parts.append(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    write_bytes(Path(path), b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name.

    Raises:
      ValueError: if the file is not one, or is damaged.
    """
    content = Path(path).read_bytes()
    header, start = _header(Path(path), content)
    header.pop("__metadata__", None)
    return {name: _array(Path(path), content, start, name, entry) for name, entry in header.items()}


def _header(path: Path, content: bytes) -> tuple[dict[str, Any], int]:
    """Returns the header, and where the arrays begin."""
    length = int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or length > min(_LARGEST_HEADER, len(content) - 8):
            raise ValueError
        header = json.loads(content[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no safetensors file, or it is damaged: its header cannot be read") from None
    return header, 8 + length


def _array(path: Path, content: bytes, start: int, name: str, entry: Any) -> np.ndarray:
    try:
        dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(content) - start or any(size < 0 for size in shape):
            raise ValueError
        return np.frombuffer(content[start + begin : start + end], dtype.newbyteorder("<")).reshape(shape).astype(dtype)
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: {name} cannot be read as {entry}") from None


def write_bytes(path: Path, content: bytes | bytearray) -> None:
    """Writes a file whole, in the place of one that exists, or leaves nothing."""
    temporary = part_of(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
