"""How what a step unrolls is split over the devices along a mesh's axis of layers, or of time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from rnnjax.cells.cell import Cell
from rnnjax.cells.tree import first_that_mixes_units, is_stack
from rnnjax.errors import ConfigError
from rnnjax.parallel.layers import Wavefront
from rnnjax.parallel.mesh import LAYERS, TIME
from rnnjax.parallel.time import TimeSplit
from rnnjax.unrolling.auto import Auto, choosing
from rnnjax.unrolling.recurrence import Method

Function = Callable[..., Any]


def splitting(function: Function, mesh: Mesh) -> Function:
    """Returns a function, to be mapped over a mesh, whose cells are unrolled over the devices that split them.

    Along the axis of layers, every `Stack` is split that has a layer for each device; other cells are unrolled on every
    device alike. Along the axis of time, every cell is split. If there is one device along both, the function is
    returned unchanged.

    Raises:
      ConfigError: when the function is traced, if nothing that it unrolls can be split, or something cannot over time.
    """
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
