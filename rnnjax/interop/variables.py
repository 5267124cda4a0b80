"""Foreign variables by name: found, chosen, and read with every one of them used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells import GatedCell, Project
from rnnjax.cells.tree import has_dense
from rnnjax.dtypes import at_least_float32


class Variable(NamedTuple):
    """A foreign variable, and its name as its owner knows it."""

    name: str
    value: Any


Variables = dict[tuple[str, ...], Variable]
Found = dict[str, Variable]
Shapes = dict[str, tuple[int, ...]]


def paths(variables: Mapping, separator: str, above: tuple[str, ...] = ()) -> Variables:
    """Returns variables of nested or flat mappings by the parts of their names."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays by name, got {type(variables).__name__}")
    found: Variables = {}
    for key, value in variables.items():
        path = (*above, *str(key).split(separator))
        if isinstance(value, Mapping):
            found |= paths(value, separator, path)
        else:
            found[path] = Variable(separator.join(path), value)
    return found


def below(variables: Variables, scope: str, separator: str) -> Variables:
    """Returns the variables below a scope, under names without it."""
    above = tuple(part for part in scope.split(separator) if part)
    found = {path[len(above) :]: v for path, v in variables.items() if path[: len(above)] == above != path}
    if not found:
        raise ValueError(
            f"there are no variables{f' below scope {scope!r}' * bool(above)}; there are {names_of(variables)}"
        )
    return found


def inside(variables: Variables) -> Variables:
    """Returns the variables under names without the scopes that all of them are in."""
    depth = 0
    while len({path[: depth + 1] for path in variables}) == 1 and all(len(path) > depth + 1 for path in variables):
        depth += 1
    return {path[depth:]: variable for path, variable in variables.items()}


def read(cell: GatedCell | Project, found: Found, shapes: Shapes) -> dict[str, Array]:
    """Returns the values of the variables in `shapes`, raising unless they and no others are there."""
    reads = f"{describe(cell)} reads {', '.join(shapes)}"
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ValueError(
            f"{reads}, but there is no {', '.join(missing)} among {names_of(found)}{_elsewhere(missing[0], found)}"
        )
    extra = {name: variable for name, variable in found.items() if name not in shapes}
    if extra:
        raise ValueError(f"{reads}, and has no use for {names_of(extra)}; make the cell match, or choose with scope=")
    for name, shape in shapes.items():
        if np.shape(found[name].value) != shape:
            got = list(np.shape(found[name].value))
            raise ValueError(f"{found[name].name} must have shape {list(shape)} for {describe(cell)}, got {got}")
    return {name: array_of(found[name]) for name in shapes}


def _elsewhere(missing: str, found: Found) -> str:
    """Returns what to do where a missing variable is there, but in scopes below."""
    below = {name: variable for name, variable in found.items() if name.endswith(f"/{missing}")}
    choose = f"; choose {names_of(below)} with scope= (a layer of PyTorch's with layer=), or convert to a Stack"
    return choose if below else ""


def array_of(variable: Variable) -> Array:
    """Returns a value as an array of float32 or above."""
    value = variable.value
    if hasattr(value, "detach"):  # A PyTorch tensor; NumPy has no bfloat16, and every float type fits into double.
        value = value.detach().cpu().double().numpy()
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{variable.name} must be floating point, got {array.dtype}")
    return array.astype(at_least_float32(array.dtype))


def size_of(found: Found, name: str, axis: int) -> int:
    """Returns the size of one axis of a variable, 1 if it is not there: reading it then says what is wrong."""
    shape = np.shape(found[name].value) if name in found else ()
    return shape[axis] if axis < len(shape) else 1


def refuse(cell: GatedCell, framework: str, **counterpart: Any) -> None:
    """Raises if an option of the cell is not the one that the framework has."""
    for option, value in counterpart.items():
        if getattr(cell, option) != value:
            kind = type(cell).__name__
            raise ValueError(
                f"{framework} has no counterpart of {kind}({option}={getattr(cell, option)!r}); "
                f"use {kind}({option}={value!r})"
            )


def describe(cell: GatedCell | Project) -> str:
    """Returns a cell with its size alone, for a sentence."""
    size = "size" if has_dense(cell) else "hidden_size"
    return f"{type(cell).__name__}({size}={getattr(cell, size)})"


def names_of(variables: Mapping[Any, Variable], most: int = 12) -> str:
    """Returns the names of variables for a sentence."""
    names = [variable.name for variable in variables.values()]
    return (", ".join(names[:most]) or "none") + (f" and {len(names) - most} more" if len(names) > most else "")
