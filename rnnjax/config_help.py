"""The help about a config: its variants and its fields, described by their docstrings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from rnnjax.class_options import ClassOptions, choices, flag_type, takes_none
from rnnjax.config import TrainConfig
from rnnjax.config_file import ConfigFile
from rnnjax.config_group import ConfigGroup

_WIDTH = 110


class Described(NamedTuple):
    """A field of a config.

    Attributes:
      name: its dotted name.
      kind: its type in words.
      value: its value as text.
      sentence: its description.
    """

    name: str
    kind: str
    value: str
    sentence: str


def help_text(config: TrainConfig, file: ConfigFile) -> str:
    """Returns the variants of a config file, and the fields of the config with types, values and descriptions."""
    lines = [f"Variants of {file.path}: {_variants(file)}", "", "Fields, with their values:", ""]
    for field in described(config):
        lines.append(f"--config.{field.name}={field.value}  ({field.kind})")
        lines += textwrap.wrap(field.sentence, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    lines += ["", "A field that may be None is unset by none, such as --config.data.path=none."]
    lines += ["The fields of config.cell follow config.cell.kind: give it here to see those of another cell."]
    return "\n".join(lines)


def _variants(file: ConfigFile) -> str:
    default = file.default()
    names = [f"{name} (the default)" if name == default else name for name in file.variants()]
    return ", ".join(names) or "the file lists none; see its docstring"


def described(config: ConfigGroup, prefix: str = "") -> Iterator[Described]:
    """Yields the fields of a config and of its groups."""
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if isinstance(value, ConfigGroup):
            yield from described(value, f"{name}.")
        else:
            of = _class_of(config, field.name)
            sentence = sentences(of).get(field.name, "")
            yield Described(name, _kind(of, field), _shown(of, field.name, value), sentence)


def _class_of(config: ConfigGroup, name: str) -> type:
    """Returns the class whose docstring describes a field."""
    if not isinstance(config, ClassOptions):
        return type(config)
    names = {field.name for field in dataclasses.fields(config.group_fields)}
    return config.group_fields if name in names else config.described()


def _kind(of: type, field: dataclasses.Field) -> str:
    """Returns a field's type in words."""
    options = not issubclass(of, ConfigGroup)
    kind, none = flag_type(field.type), types.NoneType in get_args(field.type)
    text = " or ".join(map(repr, choices(of, field.name))) if options else ""
    text = text or (f"list of {get_args(kind)[0].__name__}" if get_args(kind) else kind.__name__)
    return f"{text} or None" if none and (not options or takes_none(of, field.name)) else text


def _shown(of: type, name: str, value: Any) -> str:
    """Returns a value as text; for an unset field whose default no flag can express, the name of that default."""
    if value is None and not issubclass(of, ConfigGroup):
        default = next(field.default for field in dataclasses.fields(of) if field.name == name)
        value = None if default is dataclasses.MISSING else getattr(default, "__name__", default)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@functools.lru_cache(maxsize=256)
def sentences(of: type) -> dict[str, str]:
    """Returns the descriptions of attributes in the docstrings of a class and of its bases."""
    descriptions: dict[str, str] = {}
    for base in reversed(of.__mro__):
        descriptions |= _attributes(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
    return descriptions


def _attributes(docstring: str) -> dict[str, str]:
    descriptions: dict[str, str] = {}
    names: list[str] = []
    _, _, section = docstring.partition("Attributes:\n")
    for line in section.splitlines():
        entry = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
        if entry is not None:
            names = entry[1].split(", ")
            descriptions |= dict.fromkeys(names, entry[2])
        elif line.startswith("    ") and names:
            descriptions |= {name: f"{descriptions[name]} {line.strip()}" for name in names}
        else:
            break
    return descriptions
