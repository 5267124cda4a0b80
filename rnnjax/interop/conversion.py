"""The conversion of stacks and wrappers, the same for every framework."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import Cell, Project, ProjectParams, Stack
from rnnjax.cells.cell import Params
from rnnjax.cells.traits import is_gated
from rnnjax.cells.tree import has_dense, has_no_params_of_its_own, is_stack, needed_input_size
from rnnjax.interop.variables import (
    NamedVariables,
    Shapes,
    Variables,
    counterpart,
    describe,
    names_of,
    read,
    scope_of,
    without_common_scope,
)


class DenseNames(NamedTuple):
    """How a framework stores the dense layer behind a cell.

    Attributes:
      kernel, bias: the names of its two variables.
      transposed: whether the kernel is ``[O, H]``, not ``[H, O]``.
      biased: whether there always is a bias.
    """

    kernel: str
    bias: str = "bias"
    transposed: bool = False
    biased: bool = False


class Framework(NamedTuple):
    """How a framework stores parameters.

    Attributes:
      name: the framework's name, for errors.
      cells: for each class of cells, a function ``(cell, named_variables, input_size) -> params``.
      dense: how it stores dense layers; None: no dense layer is read.
      choice: returns the arguments that choose given variables, those below a scope, for errors.
    """

    name: str
    cells: dict[type, Callable[[Any, NamedVariables, int | None], Params]]
    dense: DenseNames | None
    choice: Callable[[Variables], str] = scope_of


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
    try:
        return _convert(framework, cell, variables, input_size)
    except ValueError as error:
        advice = _advice(framework, cell, variables, input_size)
        raise ValueError(f"{error}{advice}") from None


def _convert(framework: Framework, cell: Cell, variables: Variables, input_size: int | None) -> Params:
    if is_stack(cell):
        # One more than layers: `zip` leaves out the outputs of the last one.
        sizes = [input_size, *(below.output_size for below in cell.cells)]
        layers = layers_of(len(cell.cells), variables)
        return tuple(_convert(framework, c, layer, size) for c, layer, size in zip(cell.cells, layers, sizes))
    if has_no_params_of_its_own(cell):
        return _convert(framework, cell.cell, variables, input_size or needed_input_size(cell))
    if has_dense(cell) and framework.dense:
        return _project(framework, framework.dense, cell, variables, input_size)
    kind = counterpart(cell)
    if not is_gated(cell) or kind not in framework.cells:
        raise ValueError(_unknown(framework, cell))
    named = {"/".join(path): variable for path, variable in without_common_scope(variables).items()}
    params = framework.cells[kind](cell, named, input_size)
    return jax.tree.map(lambda leaf: leaf.astype(cell.param_dtype), params)


def _unknown(framework: Framework, cell: Cell) -> str:
    """Returns a sentence that says which cells a framework has a counterpart of."""
    known = ", ".join(kind.__name__ for kind in framework.cells)
    made_of = "Stack, Project and wrappers" if framework.dense else "Stack and wrappers"
    return (
        f"{framework.name} has no counterpart of {type(cell).__name__}; it has one of {known}, alone or in "
        f"{made_of} without parameters of their own"
    )


def layers_of(count: int, variables: Variables) -> list[Variables]:
    """Returns the variables of each of `count` layers, which must be in scopes whose names differ in a number only.

    Raises:
      ValueError: if they are not.
    """
    if count == 1:
        return [variables]
    scopes: dict[str, Variables] = {}
    for path, variable in without_common_scope(variables).items():
        scopes.setdefault(path[0], {})[path[1:]] = variable
    stems = {scope: re.sub(r"_?\d*$", "", scope) for scope in scopes}
    # A name without a number is the first: `lstm` comes before `lstm_1`.
    numbered = {int(scope[len(stem) :].lstrip("_") or -1): scope for scope, stem in stems.items()}
    if len(set(stems.values())) > 1 or not len(numbered) == len(scopes) == count:
        raise ValueError(
            f"a Stack of {count} layers needs variables in as many scopes whose names differ in a number "
            f"only, such as cell_0, cell_1; they are in {', '.join(scopes) or 'no scope'}"
        )
    return [scopes[numbered[number]] for number in sorted(numbered)]


def _project(
    framework: Framework, names: DenseNames, cell: Project, variables: Variables, input_size: int | None
) -> ProjectParams:
    """Returns the parameters of a cell and of the dense layer behind it."""
    variables = without_common_scope(variables)
    layers = _dense_layers(names, variables)
    fitting = [scope for scope, shape in layers.items() if shape == (cell.cell.output_size, cell.size)]
    # A cell may have such variables too, but below more scopes.
    uppermost = [scope for scope in fitting if len(scope) == min(map(len, fitting))]
    if len(uppermost) != 1:
        raise ValueError(
            f"{describe(cell)} needs one dense layer beside its cell, with {names.kernel} of {cell.cell.output_size} "
            f"inputs and {cell.size} outputs and {names.bias}, but there are {len(fitting)} among "
            f"{names_of(variables)}"
        )
    dense = {path[-1]: variable for path, variable in variables.items() if path[:-1] == uppermost[0]}
    rest = {path: variable for path, variable in variables.items() if path[:-1] != uppermost[0]}
    w, b = (leaf.astype(cell.param_dtype) for leaf in _dense(names, cell, dense))
    return ProjectParams(_convert(framework, cell.cell, rest, input_size), w, b)


def _dense_layers(names: DenseNames, variables: Variables) -> dict[tuple[str, ...], tuple[int, int]]:
    """Returns the scopes that have a dense layer's variables and no others, each with its sizes of input and output."""
    scopes: dict[tuple[str, ...], NamedVariables] = {}
    for path, variable in variables.items():
        scopes.setdefault(path[:-1], {})[path[-1]] = variable
    found = {}
    for scope, named in scopes.items():
        shape = np.shape(named[names.kernel].value) if names.kernel in named else ()
        if len(shape) == 2 and named.keys() <= {names.kernel, names.bias}:
            found[scope] = shape[::-1] if names.transposed else shape
    return found


def _dense(names: DenseNames, cell: Project, named: NamedVariables) -> tuple[Array, Array]:
    """Returns ``w [H, O]`` and ``b [O]`` of a dense layer; b is zero if the layer has none."""
    shape = (cell.cell.output_size, cell.size)
    shapes: Shapes = {names.kernel: shape[::-1] if names.transposed else shape}
    if names.biased or names.bias in named:
        shapes[names.bias] = (cell.size,)
    values = read(cell, named, shapes)
    w = values[names.kernel]
    return w.T if names.transposed else w, values.get(names.bias, jnp.zeros(cell.size))


def _advice(framework: Framework, cell: Cell, variables: Variables, input_size: int | None) -> str:
    """Returns what to do about variables that do not match: only what was tried and works."""

    def works(cell: Cell, variables: Variables) -> bool:
        try:
            _convert(framework, cell, variables, input_size)
        except (ValueError, TypeError):
            return False
        return True

    below = {}
    for scope in {path[:depth]: None for path in variables for depth in range(1, len(path))}:
        part = {path[len(scope) :]: variable for path, variable in variables.items() if path[: len(scope)] == scope}
        if not any(scope[: len(other)] == other for other in below) and works(cell, part):
            below[scope] = part
    chosen = [framework.choice(part) for part in below.values()]
    sizes = {shape[1] for shape in _dense_layers(framework.dense, variables).values()} if framework.dense else ()
    other = [f"Project(cell, {size})" for size in sorted(sizes) if works(Project(cell, size), variables)]
    if len(below) > 1 and works(Stack([cell] * len(below)), variables):
        other.append(f"Stack([cell] * {len(below)})")
    ways = [f"{verb} {' or '.join(what)}" for verb, what in (("choose", chosen), ("convert to", other)) if what]
    return f"; {', or '.join(ways)}" if ways else ""
