"""Tasks, one file each: a module with a `Config` class and `build(config) -> Task`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.named_code import named_module


def task_module(name: str) -> ModuleType:
    """Returns a task's module, in this package or, for a name with a dot in it, anywhere.

    Raises:
      ConfigError: if there is none of that name, it cannot be imported, or it lacks `Config` or `build`.
    """
    path = name if "." in name else f"{__name__}.{name}"
    module = named_module(path, f"unknown task {name!r}")
    kind = getattr(module, "Config", None)
    fits = isinstance(kind, type) and issubclass(kind, TrainConfig) and hasattr(module, "build")
    require(fits, f"{path} is not a task: it needs a class Config, a kind of TrainConfig, and a function build(config)")
    return module


def build_task(config: TrainConfig) -> Any:
    """Returns the `Task` that a config names.

    Raises:
      ConfigError: as `task_module`, if the config is another task's, and as the task's own `build`, whose other errors
        are raised too.
    """
    module = task_module(config.task)
    own = type(config)
    require(
        isinstance(config, module.Config),
        f"task {config.task!r} takes a {module.__name__}.Config, but this config is a {own.__module__}.{own.__name__}; "
        "leave config.task out, or give a config of that task",
    )
    return module.build(config)
