"""How much memory there is, and checks that something fits into it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rnnjax.backend import shares_memory
from rnnjax.errors import ConfigError, first_line

_MEMORY = Path("/proc/meminfo")
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Returns the bytes of memory that this process can use: the machine's memory, or the container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CGROUPS:
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such limit
            continue
    return min(limits)


def free_memory() -> int:
    """Returns the bytes of memory that are free for this process now, as far as the system says so."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", _MEMORY.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return machine_memory() if found is None else min(machine_memory(), 1024 * int(found[1]))


def devices_apart() -> int:
    """Returns over how many memories the devices' parts of an array are spread: over one where devices share it."""
    return 1 if shares_memory() else jax.device_count()


def device_memory() -> int:
    """Returns the bytes of memory of the first device; CPU devices share the machine's memory."""
    stats = jax.local_devices()[0].memory_stats()
    return (stats or {}).get("bytes_limit") or machine_memory()


def program_size(compiled: Any, devices: int) -> int:
    """Returns the bytes of memory that a compiled program needs on a number of devices; 0 if that is unknown."""
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


def require_room_for(make: Callable[[], Any], what: str, *, times: int = 1) -> int:
    """Returns the bytes of what a function returns, of which nothing is computed: the function is only traced.

    Args:
      make: returns a pytree of arrays.
      what: names these, for the message.
      times: how many copies of them there will be.

    Raises:
      ConfigError: if they need too much memory, or the function raises an error.
    """
    remedy = "lower the sizes, such as cell.hidden_size"
    try:
        shapes = jax.eval_shape(make)
    except OverflowError as error:
        raise ConfigError(f"{what} have sizes that do not fit 32 bits; {remedy}") from error
    except ValueError as error:  # for example, a cell may accept inputs of one size only
        raise ConfigError(f"{what} cannot be made: {first_line(error)}") from error
    needed = times * sum(map(_bytes, jax.tree.leaves(shapes)))
    require_memory(needed, what, remedy)
    return needed


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize  # NumPy's product may overflow


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raises `ConfigError` if something needs more memory than the device has, before it is allocated.

    Args:
      needed: bytes.
      what: names it, in the plural, for the message.
      remedy: what to do, for the message.
    """
    available = device_memory()
    if needed > available:
        raise ConfigError(
            f"{what} take at least {needed / 2**30:,.1f} GiB of memory, but there are {available / 2**30:,.1f} GiB; "
            f"{remedy}"
        )
