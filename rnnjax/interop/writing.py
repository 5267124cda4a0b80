"""What all ways out have in common: which cells another framework can express, and their parameters as NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnjax.cells import Cell, Dropout, GatedCell, WeightDrop
from rnnjax.cells.activations import activation_function
from rnnjax.cells.cell import Params
from rnnjax.cells.tree import has_dense, is_stack
from rnnjax.dtypes import at_least_float32
from rnnjax.interop.variables import counterpart, refuse

Arrays = dict[str, np.ndarray]

# What no other framework's LSTM has; for `Target.options`.
PLAIN_LSTM: dict[str, Any] = {"cell_clip": None, "projection_clip": None, "layer_norm": False}


class Layer(NamedTuple):
    """A layer's cell, and its parameters as NumPy arrays."""

    cell: GatedCell
    params: Any


class Dense(NamedTuple):
    """A dense layer's ``w [H, O]`` and ``b [O]``."""

    w: np.ndarray
    b: np.ndarray


class Target(NamedTuple):
    """What a framework can express.

    Attributes:
      name: the framework's name, for errors.
      cells: for each class of cells, a function ``(cell, params) -> arrays`` of one layer by name.
      options: for each class of cells, the options that must have one value.
      activations: for each class of cells, the names of what `activation` can be.
      gate_activations: the names of what `gate_activation` can be.
    """

    name: str
    cells: dict[type, Callable[[Any, Any], Arrays]]
    options: dict[type, dict[str, Any]]
    activations: dict[type, tuple[str, ...]]
    gate_activations: tuple[str, ...]


def layers_to_write(target: Target, cell: Cell, params: Params) -> tuple[list[Layer], Dense | None]:
    """Returns the layers of a cell, from the lowest up, and the dense layer behind them, if there is one.

    Args:
      target: the framework.
      cell: a gated cell, or a `Stack` of them; in `Project`, and in `Dropout` and `WeightDrop`, which change nothing
        in evaluation.
      params: its parameters.

    Raises:
      ValueError: for a cell, or an option of a cell, that the framework has no counterpart of.
    """
    values = jax.tree.map(_as_numpy, params)
    cell, values = _in_evaluation(cell, values)
    dense = None
    if has_dense(cell):
        dense = Dense(values.w, values.b)
        cell, values = _in_evaluation(cell.cell, values.cell)
    return list(_layers(target, cell, values)), dense


def write(target: Target, layer: Layer) -> Arrays:
    """Returns the arrays of one layer by name."""
    arrays = target.cells[counterpart(layer.cell)](layer.cell, layer.params)
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def describe_layer(cell: GatedCell) -> str:
    """Returns a layer's class and sizes, for an error."""
    sizes = [f"hidden_size={cell.hidden_size}"]
    if getattr(cell, "projection_size", None):
        sizes.append(f"projection_size={cell.output_size}")
    return f"{type(cell).__name__}({', '.join(sizes)})"


def _as_numpy(leaf: Any) -> np.ndarray:
    # No other framework's NumPy arrays are of half precision.
    return np.array(leaf, at_least_float32(leaf.dtype))  # a copy, which others may write to


def _in_evaluation(cell: Cell, params: Params) -> tuple[Cell, Params]:
    """Returns a cell without the wrappers that change nothing in evaluation."""
    while type(cell) in (Dropout, WeightDrop):
        wrapper: Any = cell
        cell = wrapper.cell
    return cell, params


def _layers(target: Target, cell: Cell, params: Params):
    """Yields the layers of a cell, from the lowest up."""
    cell, params = _in_evaluation(cell, params)
    if is_stack(cell):
        for below, values in zip(cell.cells, params):
            yield from _layers(target, below, values)
        return
    kind = counterpart(cell)
    if kind not in target.cells:
        known = ", ".join(each.__name__ for each in target.cells)
        raise ValueError(
            f"{target.name} has no counterpart of {type(cell).__name__}; it has one of {known}, alone or in Stack, "
            "with one Project around all of them"
        )
    gated: Any = cell
    refuse(gated, target.name, **target.options.get(kind, {}))
    _check_activation(target, gated, "activation", target.activations[kind])
    _check_activation(target, gated, "gate_activation", target.gate_activations)
    yield Layer(gated, params)


def _check_activation(target: Target, cell: GatedCell, option: str, known: tuple[str, ...]) -> None:
    """Raises unless a cell's activation, if it has that option, is one of those that the framework has."""
    choice = getattr(cell, option, known[0])
    if choice not in known and all(choice is not activation_function(name) for name in known):
        raise ValueError(
            f"{target.name} has no counterpart of {type(cell).__name__}({option}={choice!r}); "
            f"use {option}={' or '.join(map(repr, known))}"
        )


def activation_name(choice: Any) -> str:
    """Returns the name of an activation that is given by its name, or as the function of that name."""
    return choice if isinstance(choice, str) else choice.__name__
