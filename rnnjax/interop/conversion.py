"""The conversion of a cell made of cells, whatever the framework."""

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
from rnnjax.interop.variables import Found, Shapes, Variables, describe, inside, names_of, read


class DenseNames(NamedTuple):
    """A dense layer behind a cell: its kernel's name, how many scopes it is below what it shares with the cell,
    whether the kernel is ``[O, H]``, and whether there always is a bias."""

    kernel: str
    depth: int
    transposed: bool
    biased: bool


class Framework(NamedTuple):
    """How a framework keeps parameters: a reader a cell, called as ``(cell, found, input_size)``, and dense layers."""

    name: str
    cells: dict[type, Callable[[Any, Found, int | None], Params]]
    dense: DenseNames


def convert(framework: Framework, cell: Cell, variables: Variables, input_size: int | None) -> Params:
    """Returns the parameters of a cell; `input_size` is None where only the variables tell it."""
    if is_stack(cell):
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
            f"{framework.name} has no counterpart of {type(cell).__name__}, but of {known}, alone or in Stack, Project "
            "and wrappers that have no parameters of their own"
        )
    found = {"/".join(path): variable for path, variable in inside(variables).items()}
    params = framework.cells[type(cell)](cell, found, input_size)
    return jax.tree.map(lambda leaf: leaf.astype(cell.param_dtype), params)


def _layers(cell: Stack, variables: Variables) -> list[Variables]:
    """Returns the variables of each layer, which are in scopes that differ by a number alone."""
    if len(cell.cells) == 1:
        return [variables]
    scopes: dict[str, Variables] = {}
    for path, variable in inside(variables).items():
        scopes.setdefault(path[0], {})[path[1:]] = variable
    stems = {scope: re.sub(r"_?\d*$", "", scope) for scope in scopes}
    # `lstm` comes before `lstm_1`.
    numbered = {int(scope[len(stem) :].lstrip("_") or -1): scope for scope, stem in stems.items()}
    if len(set(stems.values())) > 1 or not len(numbered) == len(scopes) == len(cell.cells):
        raise ValueError(
            f"a Stack of {len(cell.cells)} layers needs variables in as many scopes that differ by a number alone, "
            f"such as cell_0, cell_1; they are in {', '.join(scopes) or 'none'}"
        )
    return [scopes[numbered[number]] for number in sorted(numbered)]


def _project(framework: Framework, cell: Project, variables: Variables, input_size: int | None) -> ProjectParams:
    """Returns the parameters of a cell and of the dense layer behind it."""
    variables, names = inside(variables), framework.dense
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


def _dense(names: DenseNames, cell: Project, found: Found) -> tuple[Array, Array]:
    """Returns ``w [H, O]`` and ``b [O]`` of a dense layer; a bias that may be left out is zero then."""
    shape = (cell.cell.output_size, cell.size)
    shapes: Shapes = {names.kernel: shape[::-1] if names.transposed else shape}
    if names.biased or "bias" in found:
        shapes["bias"] = (cell.size,)
    values = read(cell, found, shapes)
    w = values[names.kernel]
    return w.T if names.transposed else w, values.get("bias", jnp.zeros(cell.size))
