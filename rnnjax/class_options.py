"""Groups of a config whose fields are those of another class, such as of the cell that the config names."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from rnnjax.config_group import ConfigGroup
from rnnjax.errors import did_you_mean

_SAYABLE = (str, float, int, bool, tuple)  # what a flag can say, in the order in which a union is taken for one of them


class ClassOptions(ConfigGroup):
    """Values for fields of a class. A field without a value is left to the class; None gives a value up again,
    unless the class itself takes None.

    Args:
      of: the class, a dataclass.
      path: of this group in the config, for sentences.
      values: by the names of fields.

    Raises:
      UnknownField: for a field that the class does not have, or that a config cannot say, such as a function.
    """

    without_default: ClassVar[Mapping[str, Any]] = {}  # values of fields for which the class has no default
    own: ClassVar[type[ConfigGroup]] = ConfigGroup  # the fields of the group itself, which stand before the class's

    def __init__(self, of: type, path: str, /, **values: Any):
        self.__dict__.update(_of=of, _path=path)
        for name, value in values.items():
            setattr(self, name, value)

    def described(self) -> type:
        """Returns the class whose fields these are."""
        return self._of

    # `dataclasses.fields` reads this, and through it does `config_flags`; here it depends on the instance.
    @property
    def __dataclass_fields__(self) -> dict[str, dataclasses.Field]:  # pyright: ignore
        return self.class_fields()

    def class_fields(self) -> dict[str, dataclasses.Field]:
        """Returns the fields of the class that a config can say, but for those that are called as a method here."""
        fields = sayable_fields(self.described())
        return {name: field for name, field in fields.items() if not hasattr(type(self), name)}

    def __getattr__(self, name: str) -> Any:
        """Returns the default of a field that has no value; None where a config cannot say it."""
        fields = {} if name.startswith("_") else self.class_fields()
        if name not in fields:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        default = fields[name].default
        return self.without_default.get(name) if default is None else default

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if value is None and name in self.class_fields() and not takes_none(self.described(), name):
            del self.__dict__[name]

    def unknown(self, name: str) -> str:
        nearest = did_you_mean(name, self.__dataclass_fields__)
        shown = name if name.isprintable() else ascii(name)
        return f"{self.described().__name__} has no field {shown}; leave {self._path}.{shown} out{nearest}"

    def chosen(self) -> dict[str, Any]:
        """Returns the values of the class's fields."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def arguments(self) -> dict[str, Any]:
        """Returns what the class is called with."""
        needed = required(self.described())
        return {name: value for name, value in self.without_default.items() if name in needed} | self.chosen()

    def items(self) -> Iterator[tuple[str, Any]]:
        yield from sorted(self.arguments().items())

    def fresh(self) -> ClassOptions:
        return ClassOptions(self._of, self._path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassOptions) and _content(self) == _content(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.chosen().items())})"


def _content(config: ClassOptions) -> tuple[type, dict[str, Any]]:
    return config.described(), dict(config.items())


def required(of: type) -> list[str]:
    """Returns the fields for which a dataclass has no default."""
    fields = [field for field in dataclasses.fields(of) if field.init]
    return [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]


@functools.lru_cache(maxsize=256)
def sayable_fields(of: type) -> dict[str, dataclasses.Field]:
    """Returns those fields of a dataclass that a config can say, each of one type, or None, which leaves it out.

    Their default is None where the class has none, or one that a config cannot say.
    """
    types_of = _types(of)
    made = []
    for field in dataclasses.fields(of):
        kind = said_as(types_of[field.name])
        if field.init and kind is not None:
            default = field.default if _fits(field.default, kind) else None
            made.append((field.name, kind | None, dataclasses.field(default=default)))
    options: Any = dataclasses.make_dataclass(f"{of.__name__}Options", made)
    return options.__dataclass_fields__


def _fits(default: Any, kind: Any) -> bool:
    return isinstance(default, typing.get_origin(kind) or kind) or (kind is float and type(default) is int)


def _types(of: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields; of one that names what cannot be found, the types of the defaults."""
    try:
        hints = typing.get_type_hints(of)
    except Exception:  # annotations are code of the class's author, and may name what only a type checker imports
        hints = {}
    return {field.name: hints.get(field.name, type(field.default)) for field in dataclasses.fields(of)}


def said_as(hint: Any) -> Any:
    """Returns the one of the types of a union that a flag is read as; None where there is none of them."""
    kinds = [kind for part in _parts(hint) for kind in _plain(part)]
    return next((kind for plain in _SAYABLE for kind in kinds if (typing.get_origin(kind) or kind) is plain), None)


def choices(of: type, name: str) -> tuple[Any, ...]:
    """Returns the values of a field that is a choice among some, none where it is not."""
    literals = [part for part in _parts(_types(of)[name]) if typing.get_origin(part) is Literal]
    return tuple(value for literal in literals for value in typing.get_args(literal))


def takes_none(of: type, name: str) -> bool:
    """Says whether None is a value of a field."""
    return types.NoneType in _parts(_types(of)[name])


def _parts(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a union, of unions even, is made of."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    return tuple(part for each in typing.get_args(hint) for part in _parts(each))


def _plain(part: Any) -> list[Any]:
    if typing.get_origin(part) is Literal:
        return [type(value) for value in typing.get_args(part)]
    return [part]
