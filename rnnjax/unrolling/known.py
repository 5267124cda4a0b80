"""Looks up the fastest method for a recurrence: as measured on this machine, or in the table of known devices.

Measurements are stored in the user's cache. Each applies to recurrences of exactly the same sizes and types, on the
same kind of device, with the same versions. A process reads them once. Rows of the table apply up to a width and a
batch size.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.cache import cache_directory, read_kept, write_kept
from rnnjax.cells.cell import compute_dtype
from rnnjax.cells.traits import fuses
from rnnjax.files import is_object
from rnnjax.machine import device_name, versions
from rnnjax.unrolling.candidates import can_serve, method_as_json, method_from_json
from rnnjax.unrolling.known_devices import known_rows
from rnnjax.unrolling.recurrence import Method, Recurrence

_TABLE = "methods.json"  # in the cache
OFF = "RNNJAX_TUNE"  # "0": the user's cache is not read

Methods = tuple[tuple[str, Method], ...]
"""Methods by `recurrence_key`, hashable."""


def recurrence_key(recurrence: Recurrence) -> str:
    """Returns a digest of all that a recurrence's time depends on besides the machine: cell, shapes, dtypes, flags."""
    return _digest(_described(recurrence))


def _described(recurrence: Recurrence) -> list[Any]:
    cell, steps = recurrence.cell, recurrence.steps
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(cell))  # the repr of a function has its address
    parts = (recurrence.params, recurrence.state, steps.z, recurrence.xs)
    shapes = [[f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(part)] for part in parts]
    flags = [steps.valid is not None, steps.resets is not None, recurrence.gaps]
    return [type(cell).__module__, text, str(recurrence.length), shapes, flags]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def kept_choice(recurrence: Recurrence, *, gradient: bool) -> Method | None:
    """Returns the method measured to be fastest on such a machine; None if none was measured, or it cannot serve.

    Args:
      recurrence: the recurrence.
      gradient: whether by the time with the gradient. If only the other time was measured, that one counts.
    """
    table = _methods(cache_directory()) if os.environ.get(OFF) != "0" else {}
    if not table:
        return None
    key = recurrence_key(recurrence)
    measured = (table.get(_kept_as(key, each)) for each in (gradient, not gradient))
    return next((method for method in measured if method is not None and can_serve(method, recurrence)), None)


def given_choice(methods: Methods, recurrence: Recurrence) -> Method | None:
    """Returns the method that `methods` has for a recurrence; None if there is none, or it cannot serve."""
    method = dict(methods).get(recurrence_key(recurrence)) if methods else None
    return method if method is not None and can_serve(method, recurrence) else None


def shipped_choice(recurrence: Recurrence) -> Method | None:
    """Returns the method in the table of known devices for the device that JAX computes on; None if there is none."""
    table = known_rows()
    if not table or not fuses(recurrence.cell):
        return None
    h, device = recurrence.state.h, device_name()
    hidden, batch = h.shape[-1], h.size // h.shape[-1]
    if not isinstance(hidden, int) or not isinstance(batch, int):  # sizes that are symbols
        return None
    what = type(recurrence.cell).__name__, jnp.dtype(compute_dtype(recurrence.steps.z)).name
    rows = (row for row in table if device.startswith(row.device) and (row.cell, row.dtype) == what)
    fitting = (row.method for row in rows if hidden <= row.hidden and batch <= row.batch)
    return next((method for method in fitting if can_serve(method, recurrence)), None)


def keep_choices(choices: Mapping[tuple[str, bool], Method], about: Mapping[str, Any]) -> None:
    """Stores what was measured in the user's cache; this process uses it from now on.

    Args:
      choices: the fastest method by `recurrence_key` and whether that is with its gradient.
      about: descriptions for human readers, by `recurrence_key`.
    """
    table = _read()
    for (key, gradient), method in choices.items():
        what = {"gradient": gradient, **_machine(), "measured": about.get(key)}
        table[_kept_as(key, gradient)] = {"method": method_as_json(method), **what}
    write_kept(_TABLE, table, "the next program measures again")
    _methods.cache_clear()


def _kept_as(key: str, gradient: bool) -> str:
    return _digest([key, gradient, _machine()])


@functools.cache
def _machine() -> dict[str, Any]:
    """Returns the device, and the versions of the packages that programs are compiled by."""
    installed = versions()
    return {"device": device_name(), "versions": {name: installed.get(name) for name in ("jax", "jaxlib", "rnnjax")}}


@functools.cache
def _methods(cache: Path) -> dict[str, Method]:
    """Returns what the file in a cache directory, the one that is in use, has of methods."""
    read = {key: method_from_json(entry.get("method")) for key, entry in _read().items() if is_object(entry)}
    return {key: method for key, method in read.items() if method is not None}


def _read() -> dict[str, Any]:
    return read_kept(_TABLE, "methods are measured anew")
