"""Cells as the code that makes them, without what it need not say."""

from __future__ import annotations

import dataclasses
from typing import Any


def as_code(cell: Any) -> str:
    """Returns the call that makes a dataclass: what has no default by its place, the rest by its name if it differs.

    Numbers, names, types and cells can be read back so, functions where they are known by their own names.
    """
    fields = [field for field in dataclasses.fields(cell) if field.init and field.repr]
    shown = [(field, getattr(cell, field.name)) for field in fields]
    parts = [
        _value(value) if _has_place(field) else f"{field.name}={_value(value)}"
        for field, value in shown
        if not _is_default(field, value)
    ]
    return f"{type(cell).__qualname__}({', '.join(parts)})"


def _has_place(field: dataclasses.Field[Any]) -> bool:
    """Returns whether a field is given by its place: it must be given, and so must all before it."""
    return not field.kw_only and field.default is field.default_factory is dataclasses.MISSING


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    if default is dataclasses.MISSING:
        return False
    try:
        return bool(value is default or value == default)
    except ValueError:  # arrays are equal entry by entry
        return False


def _value(value: Any) -> str:
    """Returns a value as code: a type of numbers by its name as a string, which fields take, a function by its own."""
    name = getattr(value, "__name__", None)
    if name is None:
        return repr(value)
    return repr(name) if isinstance(value, type) else name
