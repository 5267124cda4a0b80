"""The base of configs: plain dataclasses whose fields are checked, that can be frozen, and that JSON can hold."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from rnnjax.errors import ConfigError, did_you_mean, require

C = TypeVar("C", bound="ConfigGroup")


class UnknownField(ConfigError, AttributeError):
    """A field that a group of a config does not have."""


@dataclasses.dataclass
class ConfigGroup:
    """A group of fields. Unknown fields are refused, and so are changes after `freeze`."""

    read_first: ClassVar[tuple[str, ...]] = ()  # fields that decide which other fields there are
    # Fields that runs of before did not have: left out while they have their default value, or these would not resume.
    later_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        # `config_flags` reads the fields' types, which postponed annotations leave as strings.
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            field.type = hints[field.name]

    def __setattr__(self, name: str, value: Any) -> None:
        self.refuse_if_frozen(name, value)
        if name not in field_types(self):
            raise UnknownField(self.unknown(name))
        super().__setattr__(name, value)

    def refuse_if_frozen(self, name: str, value: Any) -> None:
        """Raises `FrozenInstanceError` after `freeze`."""
        if self.__dict__.get("_frozen"):
            raise dataclasses.FrozenInstanceError(f"the config is frozen; {name} cannot be set to {value!r}")

    def unknown(self, name: str) -> str:
        """Returns the message about a field that does not exist."""
        return f"{type(self).__name__} has no field {name!r}{did_you_mean(name, field_types(self))}"

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yields the names of fields and their values: everything in which configs can differ."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in self.later_fields or value != field.default:
                yield field.name, value

    def inner_groups(self) -> Iterable[ConfigGroup]:
        """Returns the groups in this one."""
        return [value for value in vars(self).values() if isinstance(value, ConfigGroup)]

    def fresh(self: C) -> C:
        """Returns a new group of this kind with default values."""
        return type(self)()

    def check(self) -> None:
        """Raises `ConfigError` for invalid values; subclasses extend it to check their own fields."""
        for name, value in self.items():
            if isinstance(value, ConfigGroup):
                value.check()
            elif type(value) is float:
                require(math.isfinite(value), f"{name} must be a finite number, got {value}")
            elif type(value) is int:
                require(abs(value) < _TOO_LARGE, f"{name} must be below {_TOO_LARGE}, got {reprlib.repr(value)}")


_TOO_LARGE = 2**32  # for any count or seed


def field_types(config: ConfigGroup) -> dict[str, Any]:
    """Returns the types of a group's fields by their names."""
    return {field.name: field.type for field in dataclasses.fields(config)}


def freeze(config: C) -> C:
    """Checks a config and makes it immutable; returns it."""
    config.check()
    _freeze(config)
    return config


def _freeze(config: ConfigGroup) -> None:
    for group in config.inner_groups():
        _freeze(group)
    config.__dict__["_frozen"] = True


def to_dict(config: ConfigGroup) -> dict[str, Any]:
    """Returns the config as nested dicts that JSON can hold."""
    return {name: _as_json(value) for name, value in config.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, ConfigGroup):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(kind: type[C], values: Mapping[str, Any]) -> C:
    """Returns the config from which `to_dict` made `values`.

    Raises:
      ConfigError: for an unknown field, or a value of the wrong type.
    """
    return _filled(kind(), values)


def _filled(config: C, values: Mapping[str, Any]) -> C:
    """Returns `config`, which has its default values, with fields set to `values`."""
    first = [name for name in config.read_first if name in values]
    for name in dict.fromkeys([*first, *values]):
        value, types = values[name], field_types(config)
        if name not in types:
            raise UnknownField(config.unknown(name))
        inner = getattr(config, name)
        if isinstance(inner, ConfigGroup) and isinstance(value, dict):
            value = _filled(inner.fresh(), value)
        elif typing.get_origin(types[name]) is tuple and isinstance(value, list):
            value = tuple(value)
        type_name = getattr(types[name], "__name__", types[name])
        message = f"{name} of {type(config).__name__} must be {type_name}, got {reprlib.repr(value)}"
        require(_fits(value, types[name]), message)
        setattr(config, name, value)
    return config


def _fits(value: Any, hint: Any) -> bool:
    """Says whether a value is of a type; an int is accepted for a float."""
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    kinds = typing.get_args(hint) or (hint,)
    return type(value) in kinds or (float in kinds and type(value) is int)


def differences(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted names of the fields in which two nested dicts differ; each name begins with `prefix`."""
    names = []
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            names.append(f"{prefix}{name}")
    return names
