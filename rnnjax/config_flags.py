"""Configs from the command line, read through `ml_collections.config_flags`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from rnnjax.config import TrainConfig
from rnnjax.config_group import freeze
from rnnjax.errors import ConfigError

_USAGE = "--config FILE.py[:variant] [--config.FIELD=VALUE ...] [--workdir DIR]"


def read_config(arguments: Sequence[str]) -> tuple[TrainConfig, str, Path | None]:
    """Returns the config, frozen, a name for it made of its file's and the variant's, and the work directory.

    Raises:
      ConfigError: for a file that cannot be read, an unknown variant, field or flag, or a value of the wrong type.
    """
    values, config_flag = flags.FlagValues(), "config"
    arguments = ["rnnjax", *arguments]
    config_flags.DEFINE_config_file(config_flag, None, "config file", flag_values=values, sys_argv=arguments)
    flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
    try:
        rest = values(arguments)[1:]
        config = values.config
        if config is not None and not isinstance(config, TrainConfig):
            getattr(config, "epochs", None)  # raises what kept the file from being read
    except (Exception, SystemExit) as error:  # a config file is a program, and can raise anything
        raise ConfigError(_reason(error)) from error
    if config is None:
        raise ConfigError(f"no config is given; usage: {_USAGE}")
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; usage: {_USAGE}")
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"get_config must return a rnnjax.config.TrainConfig, got {type(config).__name__}")
    flag: Any = values["config"]
    file, _, variant = flag.config_filename.partition(":")
    name = "-".join(filter(None, (Path(file).stem, variant)))
    return freeze(config), name, Path(values.workdir) if values.workdir else None


def _reason(error: BaseException) -> str:
    """Returns the last line of an error, without its type; what `ml_collections` puts before it is a traceback."""
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    text = (said or f"the config file raised {type(error).__name__}").splitlines()[-1].strip()
    unknown = re.match(r"Field (\w+) not found on dataclass", text)
    if unknown:
        return f"the config has no field {unknown[1]!r}"
    return re.sub(r"^(\w*(Error|Exception): |\[Errno \d+\] )", "", text)
