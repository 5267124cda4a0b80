"""The sinks that a config names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnnjax.config import SINKS
from rnnjax.errors import ConfigError, require
from rnnjax.named_code import named_module
from rnnjax.training.sinks.sink import Sink
from rnnjax.training.sinks.tensorboard import TensorBoard, can_write_events

_METHODS = ("open", "write", "figure", "close")


def followers(names: Sequence[str]) -> dict[str, Sink]:
    """Returns the sinks of a run by name: TensorBoard, and those that `config.sinks` names.

    Raises:
      ConfigError: for a sink whose package is not installed, or a module or class that is not there or is no sink.
    """
    sinks: dict[str, Sink] = {name: _named(name) for name in names}
    return {"tensorboard": TensorBoard(), **sinks} if can_write_events() else sinks


def _named(name: str) -> Sink:
    if name in SINKS:
        return _installed(name)
    path, _, class_name = name.partition(":")
    kind: Any = getattr(named_module(path, f"unknown sink {name!r}"), class_name, None)
    require(isinstance(kind, type), f"unknown sink {name!r}: {path} has no class {class_name}")
    missing = [method for method in _METHODS if not callable(getattr(kind, method, None))]
    require(not missing, f"{name!r} is no sink: it has no method {', '.join(missing)}")
    try:
        return kind()
    except Exception as error:  # a class of one's own can raise anything
        raise ConfigError(f"the sink {name!r} cannot be made ({type(error).__name__}: {error})") from error


def _installed(name: str) -> Sink:
    try:
        if name == "wandb":
            from rnnjax.training.sinks.wandb import Wandb

            return Wandb()
        from rnnjax.training.sinks.mlflow import MLflow

        return MLflow()
    except ImportError as error:
        message = f'the sink {name} needs a package ({error}); install with: pip install "rnnjax[{name}]"'
        raise ConfigError(message) from error
