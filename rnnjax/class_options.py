"""Groups of a config whose fields are those of another class, such as the cell that the config names."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from rnnjax.config_group import ConfigGroup
from rnnjax.errors import did_you_mean

_FLAG_TYPES = (str, float, int, bool, tuple)  # in the order in which a flag for a union of types tries them


class ClassOptions(ConfigGroup):
    """Values for fields of a class. A field without a value takes the default of the class.

    None removes a value again, unless None is itself a value of the field.

    Args:
      of: the class, a dataclass.
      path: of this group in the config, for messages.
      values: by field.

    Raises:
      UnknownField: for a field that the class does not have, or whose type no config can express, such as a function.
    """

    without_default: ClassVar[Mapping[str, Any]] = {}  # for fields that have none in their class
    group_fields: ClassVar[type[ConfigGroup]] = ConfigGroup  # has the fields of the group itself, besides the class's

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
        """Returns the fields of the class that a config can express, without those whose name is a method's here."""
        fields = config_fields(self.described())
        return {name: field for name, field in fields.items() if not hasattr(type(self), name)}

    def __getattr__(self, name: str) -> Any:
        """Returns the default of a field that has no value; None if a config cannot express it."""
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
        printable = name if name.isprintable() else ascii(name)
        return f"{self.described().__name__} has no field {printable}; leave {self._path}.{printable} out{nearest}"

    def chosen(self) -> dict[str, Any]:
        """Returns the values of the class's fields that were set."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments with which the class is called."""
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
def config_fields(of: type) -> dict[str, dataclasses.Field]:
    """Returns the fields of a dataclass that a config can express, each of one type or None, which means unset.

    Their default is None if the class has none, or one that a config cannot express.
    """
    types_of = _types(of)
    fields = []
    for field in dataclasses.fields(of):
        kind = flag_type(types_of[field.name])
        if field.init and kind is not None:
            default = field.default if _fits(field.default, kind) else None
            fields.append((field.name, kind | None, dataclasses.field(default=default)))
    options: Any = dataclasses.make_dataclass(f"{of.__name__}Options", fields)
    return options.__dataclass_fields__


def _fits(default: Any, kind: Any) -> bool:
    return isinstance(default, typing.get_origin(kind) or kind) or (kind is float and type(default) is int)


def _types(of: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields; if its annotations cannot be evaluated, the types of the defaults."""
    try:
        hints = typing.get_type_hints(of)
    except Exception:  # annotations may name what only a type checker imports
        hints = {}
    return {field.name: hints.get(field.name, type(field.default)) for field in dataclasses.fields(of)}


def flag_type(hint: Any) -> Any:
    """Returns the type, among those of a union, that a flag is parsed as; None if a flag can be none of them."""
    kinds = [kind for part in _parts(hint) for kind in _plain(part)]
    return next((kind for plain in _FLAG_TYPES for kind in kinds if (typing.get_origin(kind) or kind) is plain), None)


def choices(of: type, name: str) -> tuple[Any, ...]:
    """Returns the values of a field of type `Literal`; none for other types."""
    literals = [part for part in _parts(_types(of)[name]) if typing.get_origin(part) is Literal]
    return tuple(value for literal in literals for value in typing.get_args(literal))


def takes_none(of: type, name: str) -> bool:
    """Says whether None is a value of a field."""
    return types.NoneType in _parts(_types(of)[name])


def _parts(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, nested unions included; of another type, that type."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    return tuple(part for member in typing.get_args(hint) for part in _parts(member))


def _plain(part: Any) -> list[Any]:
    if typing.get_origin(part) is Literal:
        return [type(value) for value in typing.get_args(part)]
    return [part]
