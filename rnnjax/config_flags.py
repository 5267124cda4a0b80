"""Configs from the command line, read through `ml_collections.config_flags`; without it, by `field_flags`."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from absl import flags

from rnnjax.config import TrainConfig
from rnnjax.config_file import ConfigFile, read_config_file, reason
from rnnjax.config_group import ConfigGroup, field_types, freeze
from rnnjax.errors import ConfigError, did_you_mean, require
from rnnjax.field_flags import set_fields

try:
    from ml_collections import config_flags
except ImportError:  # which is nothing that a run is to end with
    config_flags = None

_USAGE = "--config FILE.py[:variant] [--config.FIELD=VALUE ...] [--workdir DIR]"
_FIELD = re.compile(r"--?(?P<no>no)?config\.(?P<path>[^=]*)(=(?P<value>.*))?", re.DOTALL)
_UNSET = ("None", "none")


def read_config(arguments: Sequence[str]) -> tuple[TrainConfig, str, Path | None]:
    """Returns the config, frozen; a name for it, from its file and variant; and the work directory.

    Raises:
      ConfigError: for a file that cannot be read, an unknown variant, field or flag, or a value of the wrong type.
    """
    config, file, workdir = open_config(arguments)
    name = "-".join(filter(None, (Path(file.path).stem, file.variant)))
    return freeze(config), name, workdir


def open_config(arguments: Sequence[str]) -> tuple[TrainConfig, ConfigFile, Path | None]:
    """Returns the config, not checked yet; its file; and the work directory.

    Raises:
      ConfigError: as `read_config`.
    """
    names, arguments = _extracted(arguments, "config")
    require(bool(names), f"no config is given; usage: {_USAGE}")
    file = read_config_file(names[-1])
    config = file.config()
    rest = _unset(config, _choose_lists(config, _choose_cell(config, arguments)))
    read = set_fields if config_flags is None else _set_by_ml_collections
    config, workdir, stray = read(config, rest)
    require(not stray, f"unexpected argument {stray[0] if stray else ''!r}; usage: {_USAGE}")
    return config, file, Path(workdir) if workdir else None


def _set_by_ml_collections(config: TrainConfig, arguments: Sequence[str]) -> tuple[TrainConfig, str | None, list[str]]:
    """Returns the config with the fields set that flags name, the work directory, and what is no flag."""
    values, rest = flags.FlagValues(), ["rnnjax", *arguments]
    try:
        assert config_flags is not None
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=rest)
        flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
        stray = values(rest)[1:]
    except (Exception, SystemExit) as error:  # absl has many types of errors
        set_fields(config, arguments)  # which most often refuses the same, in words that are not Python's
        raise ConfigError(reason(error)) from error
    return values.config, values.workdir, stray


def _extracted(arguments: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Returns the values of all uses of a flag, and the arguments without them."""
    values, rest, remaining = [], [], list(arguments)
    while remaining:
        argument = remaining.pop(0)
        flag = re.fullmatch(rf"--?{re.escape(name)}(=(.*))?", argument, re.DOTALL)
        if flag is None:
            rest.append(argument)
        elif flag[1] is not None:
            values.append(flag[2])
        else:
            require(bool(remaining), f"--{name} has no value; usage: {_USAGE}")
            values.append(remaining.pop(0))
    return values, rest


def _choose_cell(config: TrainConfig, arguments: Sequence[str]) -> list[str]:
    """Sets the cell and the wrappers that flags name, and returns the other arguments.

    Options that the config file sets and the new cell does not have are removed; those of flags are refused later.
    """
    kinds, arguments = _extracted(arguments, "config.cell.kind")
    if kinds:
        config.cell = config.cell.of_kind(kinds[-1])
    wrappers, arguments = _extracted(arguments, "config.cell.wrappers")
    if wrappers:
        config.cell.wrappers = _names(",".join(wrappers))
    return arguments


def _choose_lists(config: TrainConfig, arguments: Sequence[str]) -> list[str]:
    """Sets fields that are lists of names, each to what its last flag says, plainly, and returns the other arguments.

    Raises:
      ConfigError: for a flag of an unknown field.
    """
    rest = list(arguments)
    flags_of_fields = filter(None, map(_FIELD.fullmatch, arguments))
    for path in dict.fromkeys(flag["path"] for flag in flags_of_fields if not flag["no"]):
        group, name = _place(config, path)
        if field_types(group)[name] == tuple[str, ...]:
            values, rest = _extracted(rest, f"config.{path}")
            setattr(group, name, _names(values[-1]))
    return rest


def is_list(arguments: Sequence[str], path: str) -> bool:
    """Says whether the field of a dotted name is a list in the config file that the arguments name."""
    try:
        names, _ = _extracted(arguments, "config")
        group, name = _place(read_config_file(names[-1]).config(), path)
    except (ConfigError, IndexError):  # which `read_config` says
        return False
    return get_origin(field_types(group)[name]) is tuple


def _names(text: str) -> tuple[str, ...]:
    names = (name.strip(" '\"") for name in text.strip("()[] ").split(","))
    return tuple(name for name in names if name and name not in _UNSET)


def _unset(config: TrainConfig, arguments: Sequence[str]) -> list[str]:
    """Sets fields to None whose last flag says so, and returns the arguments without flags of these fields.

    Raises:
      ConfigError: for a flag of an unknown field.
    """
    rest: list[str] = []
    for argument in arguments:
        flag = _FIELD.fullmatch(argument)
        if flag is not None and _can_be_none(config, flag["path"]) and flag["value"] in _UNSET:
            rest = [other for other in rest if not _is_flag_of(other, flag["path"])]
            group, name = _place(config, flag["path"])
            setattr(group, name, None)
        else:
            rest.append(argument)
    for argument in rest:
        flag = _FIELD.fullmatch(argument)
        if flag is not None:
            inner = getattr(*_place(config, flag["path"]))
            whole = isinstance(inner, ConfigGroup)
            require(not whole, f"config.{flag['path']} is a group of fields; set each by its name, --config.X.Y=VALUE")
    return rest


def _is_flag_of(argument: str, path: str) -> bool:
    """Says whether an argument is a flag of a field or of a field within it."""
    flag = _FIELD.fullmatch(argument)
    return flag is not None and f"{flag['path']}.".startswith(f"{path}.")


def _can_be_none(config: TrainConfig, path: str) -> bool:
    group, name = _place(config, path)
    return NoneType in get_args(field_types(group)[name])


def _place(config: TrainConfig, path: str) -> tuple[ConfigGroup, str]:
    """Returns the group that contains the field of a dotted name, and the last part of the name.

    Raises:
      ConfigError: if there is no such field; the message has the most similar name.
    """
    group, (*outer, last) = config, path.split(".")
    for name in outer:
        _check_field(config, group, name)
        group = getattr(group, name)
        require(isinstance(group, ConfigGroup), f"config has no field {path!r}: {name} is no group of fields")
    _check_field(config, group, last)
    return group, last


def _check_field(config: TrainConfig, group: ConfigGroup, name: str) -> None:
    if name not in field_types(group):
        raise ConfigError(_unknown_field(config, name) if group is config else group.unknown(name))


def _unknown_field(config: TrainConfig, name: str) -> str:
    """Returns the message about a flag of no field: the field that it most likely means, and how to see them all."""
    elsewhere = [f"{path}.{name}" for path, group in vars(config).items() if name in _fields_of(group)]
    nearest = f"; did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else ""
    nearest = nearest or did_you_mean(name, field_types(config))
    return f"the config has no field {name!r}{nearest or '; --help lists the fields'}"


def _fields_of(group: Any) -> Container[str]:
    return field_types(group) if isinstance(group, ConfigGroup) else ()
