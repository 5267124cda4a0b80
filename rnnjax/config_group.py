"""The base of configs: plain dataclasses whose fields are checked, which can be frozen, and which JSON can hold."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import typing
from typing import Any, TypeVar

from rnnjax.errors import require

C = TypeVar("C", bound="ConfigGroup")


@dataclasses.dataclass
class ConfigGroup:
    """A group of fields. Unknown names are refused, and so is any change after `freeze`."""

    def __post_init__(self) -> None:
        # `config_flags` reads the fields' types, which postponed annotations leave as strings.
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            field.type = hints[field.name]

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen"):
            raise dataclasses.FrozenInstanceError(f"the config is frozen; {name} cannot be set to {value!r}")
        if name not in (field.name for field in dataclasses.fields(self)):
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        super().__setattr__(name, value)

    def check(self) -> None:
        """Raises `ConfigError` for values that cannot be meant; a subclass checks its own after this."""
        for name, value in vars(self).items():
            if isinstance(value, ConfigGroup):
                value.check()
            elif type(value) is float:
                require(math.isfinite(value), f"{name} must be a finite number, got {value}")
            elif type(value) is int:
                require(abs(value) < _TOO_LARGE, f"{name} must be below {_TOO_LARGE}, got {reprlib.repr(value)}")


_TOO_LARGE = 2**32  # for any number of things, and for a seed


def freeze(config: C) -> C:
    """Returns `config`, checked and from now on unchangeable."""
    config.check()
    _freeze(config)
    return config


def _freeze(config: ConfigGroup) -> None:
    for value in vars(config).values():
        if isinstance(value, ConfigGroup):
            _freeze(value)
    config.__dict__["_frozen"] = True


def to_dict(config: ConfigGroup) -> dict[str, Any]:
    """Returns the config as nested dicts that JSON can hold."""
    return dataclasses.asdict(config)


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """Returns the config that `to_dict` made `values` from.

    Raises:
      ConfigError: for a name that the config does not have, or a value of another type.
    """
    config, hints = kind(), typing.get_type_hints(kind)
    for name, value in values.items():
        require(name in hints, f"{kind.__name__} has no field {name!r}")
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, ConfigGroup) and isinstance(value, dict):
            value = from_dict(hint, value)
        kinds = typing.get_args(hint) or (hint,)
        fits = type(value) in kinds or (float in kinds and type(value) is int)
        shown = getattr(hint, "__name__", hint)
        require(fits, f"{name} of {kind.__name__} must be {shown}, got {reprlib.repr(value)}")
        setattr(config, name, value)
    return config


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted names of the fields in which two nested dicts differ."""
    names = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            names.append(f"{prefix}{name}")
    return names
