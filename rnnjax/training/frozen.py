"""Parameters that training leaves as they are, named by a pattern."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import optax

from rnnjax.config import TrainConfig
from rnnjax.errors import require
from rnnjax.optimizer import Optimizer, build_optimizer
from rnnjax.training.directory.model_file import by_path, path_of

_MOST_SHOWN = 12  # paths in a message


def run_optimizer(
    config: TrainConfig, steps: int, epoch_steps: int | None = None, traced: Mapping[str, Any] | None = None
) -> Optimizer:
    """Returns the optimiser of a run, which changes nothing of what `config.frozen` names.

    Gradients of frozen parameters count for no norm, and there is no optimiser's state of them.

    Args:
      config: of the run.
      steps: as for `build_optimizer`, like the others.
      epoch_steps: of an epoch.
      traced: values in place of the config's.

    Raises:
      ConfigError: as `build_optimizer`.
    """
    optimizer = build_optimizer(config.optimizer, steps, epoch_steps, traced)
    if not config.frozen:
        return optimizer

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: "frozen" if is_frozen(config.frozen, path_of(keys)) else "trained", params
        )

    kinds: dict[Hashable, Any] = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return Optimizer(optax.multi_transform(kinds, labels), optimizer.learning_rate)


def is_frozen(pattern: str, path: str) -> bool:
    """Says whether the whole path of a parameter matches a pattern."""
    return re.fullmatch(pattern, path) is not None


def check_frozen(pattern: str, params: Any) -> None:
    """Raises `ConfigError` for a pattern that matches no parameter, or leaves none to train; it names the parameters.

    Args:
      pattern: a regular expression; nothing is frozen where it is empty.
      params: the parameters, or their shapes.
    """
    paths = list(by_path(params))
    shown = ", ".join(paths[:_MOST_SHOWN]) + (", ..." if len(paths) > _MOST_SHOWN else "")
    frozen = [path for path in paths if is_frozen(pattern, path)] if pattern else []
    require(not pattern or bool(frozen), f"frozen = {pattern!r} matches none of the parameters, which are {shown}")
    require(len(frozen) < len(paths), f"frozen = {pattern!r} leaves no parameter to be trained of {shown}")
