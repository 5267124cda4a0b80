"""Config files: Python files with a function `get_config(variant)`, or with a table of configs.

The table is `VARIANTS`, configs by name, and `DEFAULT` is the name of one of them. Beside a function, `VARIANTS` lists
names alone.
Those that come with the library have a name besides their path, and are found from any folder.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rnnjax.config import TrainConfig
from rnnjax.errors import ConfigError, did_you_mean, require

_MODULE = "rnnjax_config_file"


class ConfigFile(NamedTuple):
    """A config file.

    Attributes:
      path: of the file, or its name where it comes with the library.
      variant: the requested variant; None for the default.
      module: the file as a module.
    """

    path: str
    variant: str | None
    module: ModuleType

    def variants(self) -> list[str]:
        """Returns the variants that the file lists."""
        return [str(name) for name in getattr(self.module, "VARIANTS", ())]

    def default(self) -> str | None:
        """Returns the variant that the file has by default; None if there is no such."""
        if not hasattr(self.module, "get_config"):
            return self.module.DEFAULT
        parameters = list(inspect.signature(self.module.get_config).parameters.values())
        default = parameters[0].default if parameters else None
        return default if isinstance(default, str) else None

    def config(self) -> TrainConfig:
        """Returns the config of the variant.

        Raises:
          ConfigError: for an unknown variant, if `get_config` fails, or for what is no config.
        """
        variants = self.variants()
        if self.variant is not None and variants:
            known = f"choose from {', '.join(variants)}{did_you_mean(self.variant, variants)}"
            require(self.variant in variants, f"unknown variant {self.variant!r} of {self.path}; {known}")
        try:
            config = self._made()
        except (Exception, SystemExit) as error:  # a config file can raise anything
            raise ConfigError(reason(error)) from error
        what = "get_config must return" if hasattr(self.module, "get_config") else "VARIANTS must hold"
        require(isinstance(config, TrainConfig), f"{what} a rnnjax.config.TrainConfig, got {type(config).__name__}")
        return config

    def _made(self) -> Any:
        if hasattr(self.module, "get_config"):
            return self.module.get_config(*([] if self.variant is None else [self.variant]))
        return copy.deepcopy(self.module.VARIANTS[self.default() if self.variant is None else self.variant])


def get_config(name: str) -> TrainConfig:
    """Returns the config of ``FILE.py[:variant]``, or of ``NAME[:variant]`` where it comes with the library.

    Raises:
      ConfigError: if the file cannot be read, or makes no config.
    """
    return read_config_file(name).config()


def read_config_file(name: str) -> ConfigFile:
    """Returns the config file of ``FILE.py[:variant]``, or of ``NAME[:variant]`` where it comes with the library.

    Raises:
      ConfigError: if it cannot be read, or has neither `VARIANTS` and `DEFAULT` nor `get_config`.
    """
    path, colon, variant = name.partition(":")
    require(bool(path), "the path of the config file is empty; give --config FILE.py[:variant] or NAME[:variant]")
    place = place_of(path)
    folder = os.path.abspath(os.path.dirname(place))
    if os.path.exists(place) and folder not in sys.path:
        sys.path.append(folder)  # last, so that a module beside the file is found and hides none
    loader = SourceFileLoader(_MODULE, place)
    try:
        spec = spec_from_loader(_MODULE, loader)
        assert spec is not None
        module = module_from_spec(spec)
        sys.modules[_MODULE] = module  # dataclasses look there for names in annotations
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a config file can raise anything
        sys.modules.pop(_MODULE, None)
        raise ConfigError(reason(error)) from error
    require(_makes_configs(module), f"{path} has neither VARIANTS with a DEFAULT in it nor get_config; write one")
    return ConfigFile(path, variant if colon else None, module)


def _makes_configs(module: ModuleType) -> bool:
    if hasattr(module, "get_config"):
        return callable(module.get_config)
    variants = getattr(module, "VARIANTS", None)
    return isinstance(variants, dict) and getattr(module, "DEFAULT", None) in variants


def shipped_configs() -> dict[str, Path]:
    """Returns the config files that come with the library, by name: in the installed package, or in its checkout."""
    package = Path(__file__).parent
    folders = [package / "configs"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "configs")
    folder = next(filter(Path.is_dir, folders), folders[0])
    return {path.stem: path for path in sorted(folder.glob("[a-z]*.py"))}


def place_of(path: str) -> str:
    """Returns the path of a config file, given by its path or by its name.

    Raises:
      ConfigError: for a name that no config has, or a file that does not exist where one of that name does.
    """
    configs = shipped_configs()
    # Which are false for what can be no path, and raise nothing; a folder such as that of the data is no config.
    if os.path.exists(path) and not (path in configs and os.path.isdir(path)):
        return path
    if path.isidentifier():
        known = f"choose from {', '.join(configs)}{did_you_mean(path, configs)}, or give the path of a file"
        require(path in configs, f"unknown config {path!r}; {known}")
        return str(configs[path])
    name = Path(path).stem
    require(name not in configs, f"there is no file {path}; the library's own config is found anywhere by {name!r}")
    return path


def reason(error: BaseException) -> str:
    """Returns the last line of an error's message, without its type."""
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    text = (message or f"the config file raised {type(error).__name__}").splitlines()[-1].strip()
    return re.sub(r"^(\w*(Error|Exception): |\[Errno \d+\] )", "", text)
