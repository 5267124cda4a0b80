"""The conversion of stacks and wrappers, the same for every framework."""

from __future__ import annotations

import re
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells import Cell, Project, ProjectParams, Stack
from rnnjax.cells.cell import Params
from rnnjax.cells.traits import is_gated
from rnnjax.cells.tree import has_dense, has_no_params_of_its_own, is_stack, needed_input_size
from rnnjax.interop.variables import NamedVariables, Shapes, Variables, describe, names_of, read, without_common_scope


class DenseNames(NamedTuple):
    """How a framework stores the dense layer behind a cell.

    Attributes:
      kernel: the name of its kernel.
      depth: number of scopes of the layer below the scope that it shares with the cell.
      transposed: whether the kernel is ``[O, H]``, not ``[H, O]``.
      biased: whether there always is a bias.
    """

    kernel: str
    depth: int
    transposed: bool
    biased: bool


class Framework(NamedTuple):
    """How a framework stores parameters.

    Attributes:
      name: the framework's name, for errors.
      cells: for each class of cells, a function ``(cell, named_variables, input_size) -> params``.
      dense: how it stores dense layers.
    """

    name: str
    cells: dict[type, Callable[[Any, NamedVariables, int | None], Params]]
    dense: DenseNames


def convert(framework: Framework, cell: Cell, variables: Variables, input_size: int | None) -> Params:
    """Returns the parameters of a cell from a framework's variables.

    Args:
      framework: the framework.
      cell: the cell.
      variables: its variables.
      input_size: number I of input features; None reads it off the variables.

    Raises:
      ValueError: if a variable is missing, unused or of another shape, or the framework has no such cell.
    """
    if is_stack(cell):
        # One more than layers: `zip` leaves out the outputs of the last one.
        sizes = [input_size, *(below.output_size for below in cell.cells)]
        layers = _layers(cell, variables)
        return tuple(convert(framework, c, layer, size) for c, layer, size in zip(cell.cells, layers, sizes))
    if has_no_params_of_its_own(cell):
        return convert(framework, cell.cell, variables, input_size or needed_input_size(cell))
    if has_dense(cell):
        return _project(framework, cell, variables, input_size)
    if not is_gated(cell) or type(cell) not in framework.cells:
        known = ", ".join(kind.__name__ for kind in framework.cells)
        raise ValueError(
            f"{framework.name} has no counterpart of {type(cell).__name__}; it has one of {known}, alone or in Stack, "
            "Project and wrappers without parameters of their own"
        )
    named = {"/".join(path): variable for path, variable in without_common_scope(variables).items()}
    params = framework.cells[type(cell)](cell, named, input_size)
    return jax.tree.map(lambda leaf: leaf.astype(cell.param_dtype), params)


def _layers(cell: Stack, variables: Variables) -> list[Variables]:
    """Returns the variables of each layer, which must be in scopes whose names differ in a number only."""
    if len(cell.cells) == 1:
        return [variables]
    scopes: dict[str, Variables] = {}
    for path, variable in without_common_scope(variables).items():
        scopes.setdefault(path[0], {})[path[1:]] = variable
    stems = {scope: re.sub(r"_?\d*$", "", scope) for scope in scopes}
    # A name without a number is the first: `lstm` comes before `lstm_1`.
    numbered = {int(scope[len(stem) :].lstrip("_") or -1): scope for scope, stem in stems.items()}
    if len(set(stems.values())) > 1 or not len(numbered) == len(scopes) == len(cell.cells):
        raise ValueError(
            f"a Stack of {len(cell.cells)} layers needs variables in as many scopes whose names differ in a number "
            f"only, such as cell_0, cell_1; they are in {', '.join(scopes) or 'no scope'}"
        )
    return [scopes[numbered[number]] for number in sorted(numbered)]


def _project(framework: Framework, cell: Project, variables: Variables, input_size: int | None) -> ProjectParams:
    """Returns the parameters of a cell and of the dense layer behind it."""
    variables, names = without_common_scope(variables), framework.dense
    kernels = [path for path in variables if len(path) == names.depth + 1 and path[-1] == names.kernel]
    if len(kernels) != 1:
        raise ValueError(
            f"{describe(cell)} needs one dense layer beside its cell, with {names.kernel} and bias, "
            f"but there are {len(kernels)} among {names_of(variables)}"
        )
    dense = {path[-1]: variable for path, variable in variables.items() if path[:-1] == kernels[0][:-1]}
    rest = {path: variable for path, variable in variables.items() if path[:-1] != kernels[0][:-1]}
    w, b = (leaf.astype(cell.param_dtype) for leaf in _dense(names, cell, dense))
    return ProjectParams(convert(framework, cell.cell, rest, input_size), w, b)


def _dense(names: DenseNames, cell: Project, named: NamedVariables) -> tuple[Array, Array]:
    """Returns ``w [H, O]`` and ``b [O]`` of a dense layer; b is zero if the layer has none."""
    shape = (cell.cell.output_size, cell.size)
    shapes: Shapes = {names.kernel: shape[::-1] if names.transposed else shape}
    if names.biased or "bias" in named:
        shapes["bias"] = (cell.size,)
    values = read(cell, named, shapes)
    w = values[names.kernel]
    return w.T if names.transposed else w, values.get("bias", jnp.zeros(cell.size))
