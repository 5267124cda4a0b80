"""How much memory there is, and what cannot fit into it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rnnjax.backend import shares_memory
from rnnjax.errors import ConfigError, first_line

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Returns the bytes of memory that this process can have at most: the machine's, or its container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CGROUPS:
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such limit
            continue
    return min(limits)


def device_memory() -> int:
    """Returns the bytes of memory of the device that computes; CPU devices share the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    return (stats or {}).get("bytes_limit") or machine_memory()


def program_size(compiled: Any, devices: int) -> int:
    """Returns the bytes that a compiled program takes where it is run on so many devices; 0 where that is not known."""
    analysis = compiled.memory_analysis() if hasattr(compiled, "memory_analysis") else None
    if analysis is None:
        return 0
    sizes = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    shared = devices if shares_memory() else 1
    return shared * (sum(sizes) - analysis.alias_size_in_bytes)


def program_that_fits(compiled: Any, devices: int) -> Any:
    """Returns a compiled program of training steps; raises `ConfigError` if it needs more memory than there is."""
    remedy = "lower batch_size, steps_per_call or the model's sizes"
    require_memory(program_size(compiled, devices), "training steps", remedy)
    return compiled


def require_room_for(make: Callable[[], Any], what: str, *, times: int = 1) -> None:
    """Raises `ConfigError` if what a function makes, so many times, needs more memory than there is; makes nothing.

    So it does where the function refuses to make it.
    """
    remedy = "lower the sizes, such as cell.hidden_size"
    try:
        shapes = jax.eval_shape(make)
    except OverflowError as error:
        raise ConfigError(f"{what} have sizes that are too large to be counted in 32 bits; {remedy}") from error
    except ValueError as error:  # such as of a cell that takes inputs of one size alone
        raise ConfigError(f"{what} cannot be made: {first_line(error)}") from error
    require_memory(times * sum(map(_bytes, jax.tree.leaves(shapes))), what, remedy)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize  # not NumPy's product, which may overflow


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raises `ConfigError` if something takes more memory than the device has, before any of it is taken."""
    available = device_memory()
    if needed > available:
        raise ConfigError(
            f"{what} take at least {needed / 2**30:,.1f} GiB of memory, but there are {available / 2**30:,.1f} GiB; "
            f"{remedy}"
        )
