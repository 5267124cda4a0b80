"""Whether objects that programs are compiled for are told apart by all that they have, and have it in its own type."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from rnnjax.cells.checks import check_switch
from rnnjax.errors import first_line


class ToldApart:
    """The base of cells and methods: programs are compiled for them, and one that is equal gets the same program.

    An attribute that the comparison does not know would go unseen: one set beside the fields of a dataclass, or a field
    with ``compare=False``. Setting it is refused, and so is using an object that has got it in another way.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__orig_class__":
            return  # typing sets it on objects of a generic class, where it can
        _require_compared(type(self), (*vars(self), name))
        super().__setattr__(name, value)


def check_told_apart(owner: ToldApart) -> None:
    """Raises if a cell or a method, or one in it, has an attribute by which it is not told from others.

    And if a field that is true or false is neither, as the string "no" is, which Python takes for true.
    """
    kind, attributes = type(owner), vars(owner)
    _require_compared(kind, tuple(attributes))
    for name in _switches(kind):
        check_switch(f"{name} of {kind.__name__}", getattr(owner, name))
    for name, value in attributes.items():
        if type(value) not in _PLAIN:
            _check_value(kind, name, value)


@functools.cache
def _switches(kind: type) -> list[str]:
    """Returns the names of the fields that are true or false."""
    return [field.name for field in _fields(kind) if field.type in (bool, "bool")]


# What most fields hold, passed over since every call looks at all of them.
_PLAIN = {type(None), bool, int, float, str, type}


def _check_value(kind: type, name: str, value: Any) -> None:
    if isinstance(value, ToldApart):
        check_told_apart(value)
    elif isinstance(value, tuple):
        for each in value:
            _check_value(kind, name, each)
    else:
        _require_comparable(kind, name, value)


def _require_compared(kind: type, names: tuple[str, ...]) -> None:
    unknown = _not_compared(kind, names)
    if unknown:
        name = " and ".join(unknown)
        raise TypeError(
            f"objects of {kind.__name__} that differ in {name} alone are equal, and the program compiled for one would "
            f"serve another; make {name} a field that a @dataclasses.dataclass(frozen=True) compares, or have __eq__ "
            "compare it; an array can be a parameter, and what follows from the fields a functools.cached_property"
        )


# Once for a class and the names of its attributes, since every call asks.
@functools.cache
def _not_compared(kind: type, names: tuple[str, ...]) -> list[str]:
    """Returns the attributes of a class in which two of its objects may differ and be equal, its fields included."""
    same: dict[str, Any] = dict.fromkeys((*(field.name for field in _fields(kind)), *names), 1)
    one = _made(kind, same)
    return [
        name
        for name in same
        if not isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
        and _are_equal(one, _made(kind, same | {name: object()}))
    ]


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def _made(kind: type, values: dict[str, Any]) -> Any:
    """Returns an object that has these attributes, whatever its class makes of them."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # a comparison of one's own reads what these objects do not have
        return False


def _require_comparable(kind: type, name: str, value: Any) -> None:
    """Raises for a traced value, which is equal to its number, and for an array where fields are compared."""
    try:
        hash(value)
    except TypeError as error:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            what = "a value that is being traced, or was when it was computed"
        elif isinstance(value, (jax.Array, np.ndarray)) and _is_unhashed(kind, name):
            what = f"what cannot be compared ({first_line(error)})"
        else:
            return
        raise TypeError(
            f"{kind.__name__} holds in {name} {what}; pass it as a parameter, or, if it is a constant, compute it from "
            "the fields with NumPy"
        ) from error


def _is_unhashed(kind: type, name: str) -> bool:
    return any(field.name == name and field.hash is False for field in _fields(kind))
