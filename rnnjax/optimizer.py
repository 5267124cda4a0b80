"""Optimisers and learning-rate schedules of optax: their config, building them from it, and what they leave frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import optax

from rnnjax.config_group import ConfigGroup
from rnnjax.errors import require
from rnnjax.leaf_paths import by_path, in_model, path_of

_MOST_SHOWN = 12  # paths in a message


@dataclasses.dataclass
class OptimizerConfig(ConfigGroup):
    """An optimiser and a learning-rate schedule of optax.

    Attributes:
      name: adam, adamw, sgd, rmsprop, adagrad, lamb or lion.
      learning_rate: the peak learning rate.
      schedule: constant, cosine, linear or exponential, from the end of the warm-up to that of the run; or staircase.
      warmup_steps: steps over which the learning rate rises from zero.
      final_fraction: the final learning rate as a fraction of `learning_rate`.
      decay_after, decay_rate: for staircase, the epochs before the first decay, and the factor for each later epoch.
      momentum: for sgd and rmsprop.
      weight_decay: decoupled, of every parameter, for adamw, lamb and lion; None takes optax's: 1e-4, 0 and 1e-3.
      clip_norm: if given, gradients are scaled to at most this global norm.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    decay_after: int = 1
    decay_rate: float = 1.0
    momentum: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None

    def check(self) -> None:
        super().check()
        build_optimizer(self, steps=max(self.warmup_steps, 0) + 1)


_OPTIMIZERS = {
    "adam": (optax.adam, ()),
    "adamw": (optax.adamw, ("weight_decay",)),
    "sgd": (optax.sgd, ("momentum",)),
    "rmsprop": (optax.rmsprop, ("momentum",)),
    "adagrad": (optax.adagrad, ()),
    "lamb": (optax.lamb, ("weight_decay",)),
    "lion": (optax.lion, ("weight_decay",)),
}
_SCHEDULES = ("constant", "cosine", "linear", "exponential", "staircase")


class Optimizer(optax.GradientTransformation):
    """An optimiser of optax that knows its learning rate.

    Args:
      of: the optimiser.
      learning_rate: at a step, counted from 0.
    """

    learning_rate: optax.Schedule

    def __new__(cls, of: optax.GradientTransformation, learning_rate: optax.Schedule):
        optimizer = super().__new__(cls, of.init, of.update)
        optimizer.learning_rate = learning_rate
        return optimizer


def build_optimizer(
    config: OptimizerConfig,
    steps: int,
    epoch_steps: int | None = None,
    traced: Mapping[str, Any] | None = None,
    frozen: str = "",
) -> Optimizer:
    """Returns the optimiser for a run.

    Args:
      config: the config, which is checked.
      steps: number of steps of the run.
      epoch_steps: number of steps of an epoch; None takes that of the run.
      traced: values, by field, that replace the config's own and are not checked. They may be traced arrays, so that
        one compiled program serves runs of different values.
      frozen: a regular expression of the paths of parameters that stay as they are; none where it is empty. Their
        gradients count for no norm, and there is no optimiser's state of them.

    Raises:
      ConfigError: for an unknown name, a field that the optimiser does not have, or a rate that is not positive.
    """
    _check_optimizer(config)
    _check_schedule(config, steps)
    config = dataclasses.replace(config, **traced) if traced else config
    make, accepted = _OPTIMIZERS[config.name]
    options = {name: getattr(config, name) for name in accepted if getattr(config, name) is not None}
    schedule = _schedule(config, steps, epoch_steps)
    optimizer = make(schedule, **options)
    if config.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return Optimizer(_leaving(frozen, optimizer) if frozen else optimizer, schedule)


def _leaving(frozen: str, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: "frozen" if _is_frozen(frozen, in_model(path_of(keys))) else "trained", params
        )

    kinds: dict[Hashable, Any] = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return optax.multi_transform(kinds, labels)


def _is_frozen(pattern: str, path: str) -> bool:
    """Says whether the whole path of a parameter matches a pattern."""
    return re.fullmatch(pattern, path) is not None


def check_frozen(pattern: str, params: Any) -> None:
    """Raises `ConfigError` for a pattern that matches no parameter, or leaves none to train; it names the parameters.

    Args:
      pattern: a regular expression; nothing is frozen where it is empty.
      params: the parameters, or their shapes.
    """
    paths = list(map(in_model, by_path(params)))
    shown = ", ".join(paths[:_MOST_SHOWN]) + (", ..." if len(paths) > _MOST_SHOWN else "")
    frozen = [path for path in paths if _is_frozen(pattern, path)] if pattern else []
    require(not pattern or bool(frozen), f"frozen = {pattern!r} matches none of the parameters, which are {shown}")
    require(len(frozen) < len(paths), f"frozen = {pattern!r} leaves no parameter to be trained of {shown}")


def _check_optimizer(config: OptimizerConfig) -> None:
    require(config.name in _OPTIMIZERS, f"unknown optimizer.name {config.name!r}; choose from {', '.join(_OPTIMIZERS)}")
    accepted = _OPTIMIZERS[config.name][1]
    for name in ("momentum", "weight_decay"):
        known = name in accepted or getattr(config, name) is None
        require(known, f"{config.name} has no {name}; leave optimizer.{name} out")
    require(
        config.clip_norm is None or config.clip_norm > 0,
        f"optimizer.clip_norm must be positive, got {config.clip_norm}",
    )


def build_schedule(config: OptimizerConfig, steps: int, epoch_steps: int | None = None) -> optax.Schedule:
    """Returns the learning rate as a function of the step, for a run of `steps` steps, `epoch_steps` in each epoch.

    Raises:
      ConfigError: for an unknown schedule, or invalid numbers.
    """
    _check_schedule(config, steps)
    return _schedule(config, steps, epoch_steps)


def _check_schedule(config: OptimizerConfig, steps: int) -> None:
    rate, warmup, end = config.learning_rate, config.warmup_steps, config.final_fraction
    require(rate > 0, f"optimizer.learning_rate must be positive, got {rate}")
    require(warmup >= 0, f"optimizer.warmup_steps must not be negative, got {warmup}")
    require(warmup < steps, f"optimizer.warmup_steps must be at most {steps - 1}, got {warmup}")
    require(0 <= end <= 1, f"optimizer.final_fraction must be from 0 to 1, got {end}")
    known = config.schedule in _SCHEDULES
    require(known, f"unknown optimizer.schedule {config.schedule!r}; choose from {', '.join(_SCHEDULES)}")
    if config.schedule == "exponential":
        require(end > 0, "optimizer.final_fraction must be above 0 for an exponential schedule")
    if config.schedule == "staircase":
        after, factor = config.decay_after, config.decay_rate
        require(not warmup, "a staircase schedule has no warm-up; leave optimizer.warmup_steps out")
        require(after >= 1, f"optimizer.decay_after must be at least 1, got {after}")
        require(0 < factor <= 1, f"optimizer.decay_rate must be above 0 and at most 1, got {factor}")


def _schedule(config: OptimizerConfig, steps: int, epoch_steps: int | None) -> optax.Schedule:
    rate, warmup, end = config.learning_rate, config.warmup_steps, config.final_fraction
    rest = max(steps - warmup, 1)
    schedule = {
        "constant": lambda: optax.constant_schedule(rate),
        "cosine": lambda: optax.cosine_decay_schedule(rate, rest, alpha=end),
        "linear": lambda: optax.linear_schedule(rate, rate * end, rest),
        "exponential": lambda: optax.exponential_decay(rate, rest, end),
        "staircase": lambda: _staircase(config, epoch_steps or steps),
    }[config.schedule]()
    if not warmup:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), schedule], [warmup])


def _staircase(config: OptimizerConfig, epoch_steps: int) -> optax.Schedule:
    """Returns a rate that is constant for `decay_after` epochs, then multiplied by `decay_rate` in each later one."""
    begin = (config.decay_after - 1) * epoch_steps
    return optax.exponential_decay(config.learning_rate, epoch_steps, config.decay_rate, begin, staircase=True)
