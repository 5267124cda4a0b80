"""Tasks, one file each: a module with a `Config` class and a `Task` class, which are kinds of those that all share."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from types import ModuleType

from rnnjax.config import TrainConfig
from rnnjax.data.dataset import NO_DATA
from rnnjax.errors import require
from rnnjax.named_code import named_module, no_module
from rnnjax.tasks.checks import check_examples, check_inputs, check_kept
from rnnjax.tasks.task import Kept, Task


def task_path(name: str) -> str:
    """Returns the dotted path of a task's module; nothing of it is imported.

    A name is that of a module in this package or, if there is none, of one beside your script, in its folder or the
    current one; a name with a dot in it is a path.
    """
    own = f"{__name__}.{name}"
    if "." in name or not name.isidentifier():
        return name if "." in name else own
    return name if find_spec(own) is None and find_spec(name) is not None else own


def task_module(name: str) -> ModuleType:
    """Returns a task's module, found as `task_path` says.

    Raises:
      ConfigError: if there is no such module, it cannot be imported, or it lacks `Config`, `Task` or what a task must
        have.
    """
    path = task_path(name)
    missing = name.isidentifier() and find_spec(path) is None
    require(not missing, f"unknown task {name!r}: {no_module(name)}")
    module = named_module(path, f"unknown task {name!r}")
    for part, kind in (("Config", TrainConfig), ("Task", Task)):
        found = getattr(module, part, None)
        fits = isinstance(found, type) and issubclass(found, kind)
        require(fits, f"{path} is not a task: it needs a class {part}, a kind of {kind.__module__}.{kind.__name__}")
    lacking = [name for name in ("read", "loss") if getattr(module.Task, name) is getattr(Task, name)]
    require(not lacking, f"{path} is not a task: its class Task needs {' and '.join(lacking)}")
    return module


def build_task(config: TrainConfig, kept: Kept | None = None) -> Task:
    """Returns the task that a config names, with its data.

    Args:
      config: the config.
      kept: what a run has kept, of a task that keeps anything; None or nothing takes it from the data.

    Raises:
      ConfigError: as `task_module`, if the config is that of another task, or if the task or its data is not as
        `rnnjax.tasks.checks` wants it. Errors of the task's own `read` are raised, too.
    """
    kind = _class_of(config)
    task = kind(config, kind.read(config, kept or {}))
    for check in (check_examples, check_inputs, check_kept):
        check(task)
    return task


def open_task(config: TrainConfig, kept: Kept) -> Task:
    """Returns the task that a config names without its data.

    Args:
      config: the config.
      kept: what a run has kept.

    Raises:
      ConfigError: as `build_task`.
    """
    return _class_of(config)(config, dataclasses.replace(NO_DATA, kept=kept))


def _class_of(config: TrainConfig) -> type[Task]:
    module = task_module(config.task)
    config_class = type(config)
    config_name = f"{config_class.__module__}.{config_class.__name__}"
    require(
        isinstance(config, module.Config),
        f"task {config.task!r} takes a {module.__name__}.Config, but this config is a {config_name}; "
        "leave config.task out, or give a config of that task",
    )
    return module.Task
