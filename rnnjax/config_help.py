"""What can be said of a config on the command line: its variants, and its fields, as the docstrings describe them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from rnnjax.class_options import ClassOptions, choices, said_as, takes_none
from rnnjax.config import TrainConfig
from rnnjax.config_file import ConfigFile
from rnnjax.config_group import ConfigGroup

_WIDTH = 110


class Described(NamedTuple):
    """A field of a config: its dotted name, its type in words, its value as text, and a sentence about it."""

    name: str
    kind: str
    value: str
    sentence: str


def help_text(config: TrainConfig, file: ConfigFile) -> str:
    """Returns the variants of a config's file and the fields of the config, with type, value and a sentence each."""
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
    own = {field.name for field in dataclasses.fields(config.own)}
    return config.own if name in own else config.described()


def _kind(of: type, field: dataclasses.Field) -> str:
    """Returns a field's type in words."""
    options = not issubclass(of, ConfigGroup)
    kind, none = said_as(field.type), types.NoneType in get_args(field.type)
    text = " or ".join(map(repr, choices(of, field.name))) if options else ""
    text = text or (f"list of {get_args(kind)[0].__name__}" if get_args(kind) else kind.__name__)
    return f"{text} or None" if none and (not options or takes_none(of, field.name)) else text


def _shown(of: type, name: str, value: Any) -> str:
    """Returns a value as text; where it is left to a class that has a default no flag can say, that default's name."""
    if value is None and not issubclass(of, ConfigGroup):
        default = next(field.default for field in dataclasses.fields(of) if field.name == name)
        value = None if default is dataclasses.MISSING else getattr(default, "__name__", default)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@functools.lru_cache(maxsize=256)
def sentences(of: type) -> dict[str, str]:
    """Returns what the docstrings of a class and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(of.__mro__):
        found |= _attributes(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
    return found


def _attributes(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, section = docstring.partition("Attributes:\n")
    for line in section.splitlines():
        entry = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
        if entry is not None:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.startswith("    ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            break
    return found
