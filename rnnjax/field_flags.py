"""Flags of a config's fields, ``--config.FIELD=VALUE``, read where `ml_collections` is missing or refuses them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from rnnjax.config_group import ConfigGroup, field_types
from rnnjax.errors import ConfigError, did_you_mean, require
from rnnjax.flag_parser import KINDS, truth

C = TypeVar("C", bound=ConfigGroup)

_FLAG = re.compile(r"--?(?P<no>no)?config\.(?P<path>[^=]+)(=(?P<value>.*))?", re.DOTALL)
_WORKDIR = re.compile(r"--?workdir(=(?P<value>.*))?", re.DOTALL)


def set_fields(config: C, arguments: Sequence[str]) -> tuple[C, str | None, list[str]]:
    """Sets the fields that flags name, which exist; returns the config, the work directory, and what is no flag.

    Raises:
      ConfigError: for an unknown flag, or a value of the wrong type.
    """
    workdir, stray, left = None, [], list(arguments)
    while left:
        argument = left.pop(0)
        field, directory = _FLAG.fullmatch(argument), _WORKDIR.fullmatch(argument)
        if directory is not None:
            workdir = _value(argument, directory["value"], left)
        elif field is not None:
            _set(config, field, argument, left)
        else:
            require(not argument.startswith("-"), _unknown_flag(argument))
            stray.append(argument)
    return config, workdir, stray


def _unknown_flag(argument: str) -> str:
    name = argument.lstrip("-").split("=")[0]
    return f"unknown flag --{name}{did_you_mean(name, ['workdir']) or '; --help lists the fields of the config'}"


def _set(config: ConfigGroup, flag: re.Match[str], argument: str, left: list[str]) -> None:
    *outer, name = flag["path"].split(".")
    group = config
    for each in outer:
        group = getattr(group, each)
    kind = next(each for each in get_args(_as_union(field_types(group)[name])) if each is not NoneType)
    if flag["no"] or (kind is bool and flag["value"] is None):
        require(kind is bool, f"config.{flag['path']} is not true or false; give it a value")
        setattr(group, name, not flag["no"])
        return
    setattr(group, name, parsed(_value(argument, flag["value"], left), kind, flag["path"]))


def _as_union(hint: Any) -> Any:
    return hint if NoneType in get_args(hint) else hint | None


def _value(argument: str, value: str | None, left: list[str]) -> str:
    """Returns the value of a flag, the next argument where it has none of its own."""
    if value is None:
        require(bool(left), f"{argument} has no value")
        return left.pop(0)
    return value


def parsed(text: str, kind: Any, path: str) -> Any:
    """Returns the value that a text says, of a field's type.

    Args:
      text: the text.
      kind: str, bool, int, float or a tuple of one of them.
      path: of the field, for messages.

    Raises:
      ConfigError: if it does not say such a value.
    """
    try:
        if kind is str:
            return text
        if kind is bool:
            return truth(text)
        if get_origin(kind) is tuple or kind is tuple:
            return _members(text)
        return kind(text)
    except (ValueError, SyntaxError) as error:
        what = KINDS.get(getattr(kind, "__name__", ""), f"of type {kind}")
        raise ConfigError(f"config.{path} must be {what}, got {text!r}") from error


def _members(text: str) -> tuple[Any, ...]:
    """Returns the members of a list with commas, Python's or plain."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
    return tuple(value) if isinstance(value, list | tuple) else (value,)
