"""The methods that `tune` chooses from, and their JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from rnnjax.backend import whole_jacobians_pay
from rnnjax.cells.traits import keeps_units_apart
from rnnjax.unrolling.associative import Associative
from rnnjax.unrolling.chunkwise import Chunkwise
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.kernels.cudnn import CuDNN
from rnnjax.unrolling.kernels.pallas import Pallas
from rnnjax.unrolling.native.native import Native
from rnnjax.unrolling.newton import Newton
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.static import Static

# To be measured, chosen and stored, a new method only has to be listed here.
METHODS: tuple[Method, ...] = (
    Scan(),
    Scan(unroll=2),
    Scan(unroll=4),
    Scan(unroll=8),
    Scan(unroll=16),
    Fused(),
    Fused(unroll=2),
    Fused(unroll=4),
    Static(),
    Native(),
    Pallas(),
    CuDNN(),
    Associative("scan"),
    Associative("associative"),
    Associative("pallas"),
    Chunkwise(),
    Chunkwise(16),
    Chunkwise(128),
    Newton(),
)

_LONGEST_STATIC = 32  # steps; beyond, compiling costs more time than most runs can gain
_SHORTEST_NEWTON = 256  # steps; below, a loop over them takes no longer than a few iterations over all of them
_LEAST_NATIVE = 2**9  # products; below, a call takes as long as is spent on calling, whatever computes it


def is_worth_compiling(method: Method, recurrence: Recurrence) -> bool:
    """Says whether a method may be the fastest, as far as is known without a measurement.

    More copies of the step than there are steps, or very many, cost more than they gain, and so does a compiler where
    there is little work. Newton's method needs many steps, and on some devices a cell whose Jacobians are no whole
    matrices.
    """
    if isinstance(method, Native):
        return _products(recurrence) >= _LEAST_NATIVE
    if isinstance(method, Static):
        return recurrence.length <= _LONGEST_STATIC
    if isinstance(method, Chunkwise):
        return (method.size or 1) <= recurrence.length
    if isinstance(method, Newton):
        long_enough = recurrence.length >= _SHORTEST_NEWTON
        return long_enough and (whole_jacobians_pay() or keeps_units_apart(recurrence.cell))
    return getattr(method, "unroll", 1) <= recurrence.length


def _products(recurrence: Recurrence) -> int:
    """Returns about how many numbers the steps of a recurrence multiply by weights."""
    leaves = jax.tree.leaves(recurrence.state)
    return recurrence.length * sum(leaf.size * leaf.shape[-1] for leaf in leaves if leaf.shape)


def can_serve(method: Method, recurrence: Recurrence) -> bool:
    """Says whether a method can serve a recurrence."""
    return method.why_not(recurrence) is None


def method_as_json(method: Method) -> dict[str, Any]:
    """Returns a method's name, and its options that do not have their default value."""
    fields = dataclasses.fields(method)  # pyright: ignore[reportArgumentType]
    options = {field.name: getattr(method, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    return {"name": type(method).__name__, **{k: v for k, v in options.items() if v != defaults[k]}}


def method_from_json(value: Any) -> Method | None:
    """Returns the method that `method_as_json` wrote; None if it is not one of the library's."""
    if not isinstance(value, dict):
        return None
    options = dict(value)
    kind = _KINDS.get(str(options.pop("name", None)))
    try:
        return None if kind is None else kind(**options)
    except (TypeError, ValueError):
        return None


def is_known(method: Method) -> bool:
    """Says whether a method can be written as JSON and read back."""
    return _KINDS.get(type(method).__name__) is type(method)


_KINDS = {type(method).__name__: type(method) for method in METHODS}
