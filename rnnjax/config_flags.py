"""Configs from the command line, read through `ml_collections.config_flags`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import get_args

from absl import flags
from ml_collections import config_flags

from rnnjax.config import TrainConfig
from rnnjax.config_file import ConfigFile, read_config_file, reason
from rnnjax.config_group import ConfigGroup, field_types, freeze
from rnnjax.errors import ConfigError, did_you_mean, require

_USAGE = "--config FILE.py[:variant] [--config.FIELD=VALUE ...] [--workdir DIR]"
_FIELD = re.compile(r"--?(?P<no>no)?config\.(?P<path>[^=]*)(=(?P<value>.*))?", re.DOTALL)
_UNSET = ("None", "none")


def read_config(arguments: Sequence[str]) -> tuple[TrainConfig, str, Path | None]:
    """Returns the config, frozen, a name for it made of its file's and the variant's, and the work directory.

    Raises:
      ConfigError: for a file that cannot be read, an unknown variant, field or flag, or a value of the wrong type.
    """
    config, file, workdir = open_config(arguments)
    name = "-".join(filter(None, (Path(file.path).stem, file.variant)))
    return freeze(config), name, workdir


def open_config(arguments: Sequence[str]) -> tuple[TrainConfig, ConfigFile, Path | None]:
    """Returns the config, not yet checked, the file that it is from, and the work directory.

    Raises:
      ConfigError: as `read_config`.
    """
    names, arguments = _taken(arguments, "config")
    require(bool(names), f"no config is given; usage: {_USAGE}")
    file = read_config_file(names[-1])
    config = file.config()
    rest = ["rnnjax", *_unset(config, _choose_cell(config, arguments))]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=rest)
        flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
        stray = values(rest)[1:]
    except (Exception, SystemExit) as error:  # of the many that absl has
        raise ConfigError(reason(error)) from error
    require(not stray, f"unexpected argument {stray[0] if stray else ''!r}; usage: {_USAGE}")
    return values.config, file, Path(values.workdir) if values.workdir else None


def _taken(arguments: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Returns the values that a flag is given, and the arguments without it."""
    values, rest, left = [], [], list(arguments)
    while left:
        argument = left.pop(0)
        flag = re.fullmatch(rf"--?{re.escape(name)}(=(.*))?", argument, re.DOTALL)
        if flag is None:
            rest.append(argument)
        elif flag[1] is not None:
            values.append(flag[2])
        else:
            require(bool(left), f"--{name} has no value; usage: {_USAGE}")
            values.append(left.pop(0))
    return values, rest


def _choose_cell(config: TrainConfig, arguments: Sequence[str]) -> list[str]:
    """Gives the config the cell and the wrappers that flags name, and returns the other arguments.

    Options that the config file gives to another cell are left out; those of flags are refused when they are read.
    """
    kinds, arguments = _taken(arguments, "config.cell.kind")
    if kinds:
        config.cell = config.cell.of_kind(kinds[-1])
    wrappers, arguments = _taken(arguments, "config.cell.wrappers")
    if wrappers:
        names = ",".join(wrappers).split(",")
        config.cell.wrappers = tuple(name for name in names if name and name not in _UNSET)
    return arguments


def _unset(config: TrainConfig, arguments: Sequence[str]) -> list[str]:
    """Sets to None the fields for which the last flag says so, and returns the arguments without these flags.

    Raises:
      ConfigError: for a flag of a field that there is not.
    """
    rest: list[str] = []
    for argument in arguments:
        flag = _FIELD.fullmatch(argument)
        if flag is not None and _can_be_none(config, flag["path"]) and flag["value"] in _UNSET:
            rest = [each for each in rest if not _is_of(each, flag["path"])]
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


def _is_of(argument: str, path: str) -> bool:
    """Says whether an argument is a flag of a field, or of one in it."""
    flag = _FIELD.fullmatch(argument)
    return flag is not None and f"{flag['path']}.".startswith(f"{path}.")


def _can_be_none(config: TrainConfig, path: str) -> bool:
    group, name = _place(config, path)
    return NoneType in get_args(field_types(group)[name])


def _place(config: TrainConfig, path: str) -> tuple[ConfigGroup, str]:
    """Returns the group that a dotted name leads to, and the last part of the name.

    Raises:
      ConfigError: if there is no such field, with the nearest name.
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
        of_all = f"the config has no field {name!r}{did_you_mean(name, field_types(group))}"
        raise ConfigError(of_all if group is config else group.unknown(name))
