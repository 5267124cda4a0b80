"""The ways to unroll a sequence that are measured: this library's methods, memax's LRU and JAX's own prefix scan."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

import rnnjax
from rnnjax.backend import on_cpu, on_gpu
from rnnjax.parallel.time import TimeSplit
from rnnjax.unrolling.native.compiler import compiler

CELLS = ("LRU", "MinGRU", "ParaGRU", "GRU")
MEMORIES = ("GatedLinearAttention", "GatedDeltaNet")  # of H x H numbers, so that the longest sequences do not fit
METHODS: dict[str, rnnjax.Method] = {
    "scan": rnnjax.Scan(),
    "fused": rnnjax.Fused(),
    "in order": rnnjax.Associative("scan"),
    "tree": rnnjax.Associative("associative"),
    "kernel": rnnjax.Associative("pallas"),
    "native": rnnjax.Native(),
    "newton": rnnjax.Newton(),
    "chunks": rnnjax.Chunkwise(),
    "split": TimeSplit(),
}
WIDEST_DENSE = 16  # units; Newton's method for cells that are not diagonal multiplies matrices of their Jacobians


class Size(NamedTuple):
    """Steps, sequences in a batch, and hidden units, which are as many as the input features."""

    T: int
    B: int
    H: int


Way = tuple[Callable[[Any, Any], Array], Any]


def ways(name: str, size: Size) -> dict[str, Way]:
    """Returns the ways that are to be measured: functions of parameters and inputs ``[T, B, H]``, and parameters."""
    cell = getattr(rnnjax, name)(size.H)
    params = cell.init(jax.random.key(0), size.H)
    found: dict[str, Way] = {
        label: (functools.partial(_unrolled, cell, method), params)
        for label, method in METHODS.items()
        if _is_tried(cell, label, size)
    }
    if "split" in found:
        found["split"] = functools.partial(_over_devices, cell), params
    if name == "LRU":
        if importlib.util.find_spec("memax") is not None:
            found["memax"] = _memax(size)
        found["prefix"] = _prefix, jnp.full((size.H,), 0.9)
    return found


def _is_tried(cell: rnnjax.Cell, label: str, size: Size) -> bool:
    """Says whether a way is measured for a cell: those that serve its kind, on as many devices as they need."""
    if label in ("in order", "tree"):
        return isinstance(cell, rnnjax.LinearCell)
    if label == "kernel":
        return isinstance(cell, rnnjax.LinearCell) and on_gpu()
    if label == "chunks":
        return isinstance(cell, rnnjax.MemoryCell)
    if label == "native":
        kinds = rnnjax.LinearCell, rnnjax.DiagonalCell, rnnjax.GatedCell
        serves = isinstance(cell, kinds) and not isinstance(cell, rnnjax.MemoryCell)
        return serves and on_cpu() and compiler() is not None
    if label == "split":
        return isinstance(cell, (rnnjax.LinearCell, rnnjax.DiagonalCell)) and jax.device_count() > 1
    if label == "fused":
        return isinstance(cell, rnnjax.GatedCell)
    if label == "newton":
        diagonal = isinstance(cell, rnnjax.DiagonalCell)
        return diagonal or (isinstance(cell, rnnjax.GatedCell) and size.H <= WIDEST_DENSE)
    return True


def _unrolled(cell: rnnjax.Cell, method: rnnjax.Method, params: Any, xs: Any) -> Float[Array, "T B O"]:
    return rnnjax.unroll(cell, params, xs, method=method, time_major=True)[0]


def _over_devices(cell: rnnjax.Cell, params: Any, xs: Any) -> Float[Array, "T B O"]:
    mesh, everywhere = jax.make_mesh((jax.device_count(),), ("time",), axis_types=(AxisType.Auto,)), PartitionSpec()
    function = functools.partial(_unrolled, cell, TimeSplit())
    return jax.shard_map(function, mesh=mesh, in_specs=everywhere, out_specs=everywhere)(params, xs)


def _prefix(factor: Any, xs: Any) -> Float[Array, "T B H"]:
    """JAX's own prefix scan of h' = a h + x, with the same a at all steps."""

    def combined(first: Any, second: Any) -> Any:
        return second[0] * first[0], second[0] * first[1] + second[1]

    factors = jnp.broadcast_to(factor, xs.shape)
    return jax.lax.associative_scan(combined, (factors, jnp.asarray(xs)))[1]


def _memax(size: Size) -> Way:
    """Memax's LRU of the same size over a batch; its parameters are the module's arrays."""
    import equinox  # pyright: ignore[reportMissingImports]
    from memax.equinox.semigroups.lru import LRU  # pyright: ignore[reportMissingImports]

    model = LRU(recurrent_size=size.H, hidden_size=size.H, key=jax.random.key(0))
    params, static = equinox.partition(model, equinox.is_inexact_array)

    def run(params: Any, xs: Any) -> Float[Array, "T B H"]:
        module, start = equinox.combine(params, static), jnp.zeros(size.T, bool)

        def of_one(sequence: Any) -> Array:
            return module(module.initialize_carry(), (sequence, start))[1]

        return jax.vmap(of_one, in_axes=1, out_axes=1)(jnp.asarray(xs))

    return run, params
