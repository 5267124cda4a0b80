"""A per-device function mapped over all axes of a mesh, by `jax.shard_map` or by `jax.pmap`.

Runs and batches are split as arrays are. Layers and time are split by how the function unrolls its cells.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from rnnjax.cells.cell import Cell
from rnnjax.cells.tree import first_that_mixes_units, is_stack
from rnnjax.errors import ConfigError
from rnnjax.parallel.layers import Wavefront
from rnnjax.parallel.mesh import LAYERS, TIME
from rnnjax.parallel.pmap import Compile, Function, pmapped
from rnnjax.parallel.time import TimeSplit
from rnnjax.unrolling.auto import Auto, choosing
from rnnjax.unrolling.recurrence import Method


def map_over_devices(
    function: Function,
    mesh: Mesh,
    in_specs: Sequence[Any],
    out_specs: Any,
    *,
    map: str = "shard_map",
    donate: Sequence[int] = (),
) -> Compile:
    """Returns ``compile(*arguments)``, which returns the mapped function compiled for arguments like these.

    Both maps take and return the same arrays, sharded over the mesh, and compute the same: `function` runs on every
    device, on its shards, and can use the mesh's axes in collectives. Where devices are along the axis of layers, every
    `Stack` that it unrolls is split that has a layer for each of them; along the axis of time, every cell is split.

    Args:
      function: what one device computes.
      mesh: the devices.
      in_specs: for every argument a pytree prefix of `PartitionSpec`, each with at most one split axis.
      out_specs: the same for the results.
      map: "shard_map" or "pmap". The latter maps over one axis, so the mesh must have one device along any other.
      donate: positions of the arguments whose memory is donated.

    Raises:
      ValueError: if `map` is neither.
      ConfigError: if `jax.pmap` would have to split over two axes; when the function is traced, if it unrolls nothing
        that can be split over layers or time, or something that cannot be split over time.
    """
    function = _splitting(function, mesh)
    if map == "shard_map":
        # With one device nothing varies, so that `sum_over` has nothing to do.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs, check_vma=mesh.size > 1
        )
        program = jax.jit(mapped, donate_argnums=tuple(donate))
        return lambda *arguments: program.lower(*arguments).compile()
    if map != "pmap":
        raise ValueError(f'map must be "shard_map" or "pmap", got {map!r}')
    return pmapped(function, mesh, tuple(in_specs), out_specs, tuple(donate))


def _splitting(function: Function, mesh: Mesh) -> Function:
    """Returns a function whose cells are unrolled over the devices that split them, itself if none do."""
    if mesh.shape.get(LAYERS, 1) > 1:
        return _splitting_layers(function, mesh.shape[LAYERS])
    if mesh.shape.get(TIME, 1) > 1:
        return _splitting_time(function, mesh.shape[TIME])
    return function


def _splitting_layers(function: Function, devices: int) -> Function:
    def method_for(cell: Cell) -> Method | None:
        if not is_stack(cell) or len(cell.cells) < devices:
            return None
        return Wavefront(inner=Auto(methods=()))  # what a run computes is not to depend on the user's cache

    nothing = (
        f"parallel.layers is {devices}, but the model unrolls no stack of so many layers; set cell.layers to "
        f"{devices} or more, or parallel.layers to 1"
    )
    return _by_methods(function, method_for, nothing)


def _splitting_time(function: Function, devices: int) -> Function:
    def method_for(cell: Cell) -> Method:
        other = first_that_mixes_units(cell)
        if other is not None:
            raise ConfigError(
                f"parallel.time is {devices}, but the model unrolls {type(other).__name__}, and only linear and "
                "diagonal cells can be split over time; set cell.kind to one, such as LRU or ParaGRU, or parallel.time "
                "to 1"
            )
        return TimeSplit()

    return _by_methods(function, method_for, f"parallel.time is {devices}, but the model unrolls no cell; set it to 1")


def _by_methods(function: Function, method_for: Callable[[Cell], Method | None], nothing: str) -> Function:
    """Returns a function in which `method_for` chooses for each cell; with the error if it never chooses anything."""
    # Noted, so that an axis of the mesh that nothing is split over is an error, and not devices that do the same.
    chosen = []

    def noted(cell: Cell) -> Method | None:
        method = method_for(cell)
        chosen.extend([method] if method else [])
        return method

    @functools.wraps(function)
    def split(*arguments: Any) -> Any:
        with choosing(noted):
            results = function(*arguments)
        if not chosen:
            raise ConfigError(nothing)
        return results

    return split
