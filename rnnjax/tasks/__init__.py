"""Tasks, one file each: a module with a `Config` class and `build(config) -> Task`."""

from __future__ import annotations

import importlib
from types import ModuleType

from rnnjax.errors import ConfigError


def task_module(name: str) -> ModuleType:
    """Returns a task's module, in this package or, for a name with a dot in it, anywhere.

    Raises:
      ConfigError: if there is none of that name, or it lacks `Config` or `build`.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"unknown task {name!r}: it must name a module, such as mnist or my_package.my_task")
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        raise ConfigError(f"unknown task {name!r}: there is no module {path}") from error
    if not (hasattr(module, "Config") and hasattr(module, "build")):
        raise ConfigError(f"{path} is not a task: it needs a class Config and a function build(config)")
    return module
