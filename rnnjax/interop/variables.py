"""Another framework's variables by name: listed, selected, and read with checks that all of them are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnnjax.cells import BasicRNN, Cell, GatedCell, Project
from rnnjax.cells.joint import JointBasicRNN
from rnnjax.cells.tree import has_dense
from rnnjax.dtypes import at_least_float32


class Variable(NamedTuple):
    """Another framework's variable, and its full name there, for errors."""

    name: str
    value: Any


Variables = dict[tuple[str, ...], Variable]
NamedVariables = dict[str, Variable]
Shapes = dict[str, tuple[int, ...]]


def paths(variables: Mapping, separator: str, above: tuple[str, ...] = ()) -> Variables:
    """Returns the variables of nested or flat mappings by the parts of their names.

    Args:
      variables: the mapping.
      separator: what separates the parts of a name.
      above: the parts of the names above this mapping.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays by name, got {type(variables).__name__}")
    by_path: Variables = {}
    for key, value in variables.items():
        path = (*above, *str(key).split(separator))
        if isinstance(value, Mapping):
            by_path |= paths(value, separator, path)
        else:
            by_path[path] = Variable(separator.join(path), value)
    return by_path


def below_scope(variables: Variables, scope: str, separator: str) -> Variables:
    """Returns the variables below a scope, under names without it.

    Raises:
      ValueError: if there are none.
    """
    above = tuple(part for part in scope.split(separator) if part)
    depth = len(above)
    selected = {
        path[depth:]: variable for path, variable in variables.items() if path[:depth] == above and len(path) > depth
    }
    if not selected:
        below = f" below scope {scope!r}" if above else ""
        raise ValueError(f"there are no variables{below}; there are {names_of(variables)}")
    return selected


def without_common_scope(variables: Variables) -> Variables:
    """Returns the variables under names without the scopes that all of them share."""
    depth = 0
    # The last part of a path is the variable's own name, also where there is only one.
    while len({path[: depth + 1] for path in variables}) == 1 and all(len(path) > depth + 1 for path in variables):
        depth += 1
    return {path[depth:]: variable for path, variable in variables.items()}


def read(cell: GatedCell | Project, named: NamedVariables, shapes: Shapes) -> dict[str, Array]:
    """Returns the values of the variables in `shapes`.

    Raises:
      ValueError: if one of them is missing or has another shape, or if there are more variables.
    """
    reads = f"{describe(cell)} reads {', '.join(shapes)}"
    missing = [name for name in shapes if name not in named]
    if missing:
        raise ValueError(f"{reads}, but there is no {', '.join(missing)} among {names_of(named)}")
    unused = {name: variable for name, variable in named.items() if name not in shapes}
    if unused:
        raise ValueError(f"{reads}, and has no use for {names_of(unused)}")
    for name, shape in shapes.items():
        variable = named[name]
        if np.shape(variable.value) != shape:
            got = list(np.shape(variable.value))
            raise ValueError(f"{variable.name} must have shape {list(shape)} for {describe(cell)}, got {got}")
    return {name: array_of(named[name]) for name in shapes}


def scope_of(variables: Variables, separator: str = "/") -> str:
    """Returns the argument that selects variables which are all those below a scope, such as ``scope="rnn"``.

    Args:
      variables: the variables, by their names below the scope.
      separator: what separates the parts of a name.
    """
    path, variable = next(iter(variables.items()))
    return f'scope="{separator.join(variable.name.split(separator)[: -len(path)])}"'


def array_of(variable: Variable) -> Float[Array, "..."]:
    """Returns a variable's value as an array of float32 or a wider type.

    Raises:
      TypeError: if it is not floating point.
    """
    value = variable.value
    if hasattr(value, "detach"):  # A PyTorch tensor; NumPy has no bfloat16, and every float type fits into double.
        value = value.detach().cpu().double().numpy()
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{variable.name} must be floating point, got {array.dtype}")
    return array.astype(at_least_float32(array.dtype))


def size_of(named: NamedVariables, name: str, axis: int) -> int:
    """Returns the size of one axis of a variable; 1 if there is no such axis, which `read` will report."""
    shape = np.shape(named[name].value) if name in named else ()
    return shape[axis] if axis < len(shape) else 1


def counterpart(cell: Cell) -> type[Cell]:
    """Returns the class of cells that computes what a cell does: its own, which may differ in initial weights only."""
    return BasicRNN if type(cell) is JointBasicRNN else type(cell)


def refuse(cell: GatedCell, framework: str, **counterpart: Any) -> None:
    """Raises if an option of the cell has not the one value that the framework has a counterpart of."""
    for option, value in counterpart.items():
        if getattr(cell, option) != value:
            kind = type(cell).__name__
            raise ValueError(
                f"{framework} has no counterpart of {kind}({option}={getattr(cell, option)!r}); "
                f"use {kind}({option}={value!r})"
            )


def describe(cell: GatedCell | Project) -> str:
    """Returns a cell's class and size, for an error."""
    size = "size" if has_dense(cell) else "hidden_size"
    return f"{type(cell).__name__}({size}={getattr(cell, size)})"


def names_of(variables: Mapping[Any, Variable], most: int = 12) -> str:
    """Returns the names of variables for an error, `most` of them at most."""
    return names_in_short([variable.name for variable in variables.values()], most)


def names_in_short(names: list[str], most: int = 12) -> str:
    """Returns names for an error, `most` of them at most."""
    if not names:
        return "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
