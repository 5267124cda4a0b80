"""Sizes, which may be Python's or NumPy's integers."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

Size = int | np.integer


def as_shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes that one size, or a tuple of sizes, stands for."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size,)


def as_batch_size(batch: tuple[int, ...]) -> int | tuple[int, ...]:
    """Returns the `batch_size` of `initial_state` for leading axes: an int for one axis, else a tuple."""
    return batch[0] if len(batch) == 1 else tuple(batch)


def check_size(name: str, value: Any) -> int:
    """Returns `value`, a Python or NumPy integer, as an int; raises unless it is positive."""
    try:
        size = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = None
    if size is None:
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return size


def keep_sizes(fields: Any, *names: str, optional: tuple[str, ...] = ()) -> None:
    """Converts the sizes among a frozen dataclass's fields to int, raising for other values.

    Args:
      fields: the dataclass.
      *names: the names of its sizes.
      optional: the names of sizes that may be None.
    """
    for name in (*names, *optional):
        value = getattr(fields, name)
        if value is not None or name in names:
            object.__setattr__(fields, name, check_size(name, value))
