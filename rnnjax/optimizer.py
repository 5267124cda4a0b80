"""Optimisers of optax and of one's own, and learning rates: their config, building them, and what they leave alone."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnjax.config_group import ConfigGroup
from rnnjax.errors import ConfigError, did_you_mean, first_line, require
from rnnjax.leaf_paths import by_path, in_model, is_pattern, matches, path_of
from rnnjax.named_code import named_object

_MOST_SHOWN = 12  # paths in a message


@dataclasses.dataclass
class OptimizerConfig(ConfigGroup):
    """An optimiser, of optax or of one's own, and the schedule of its learning rate.

    Attributes:
      name: adam, adamw, sgd, rmsprop, adagrad, lamb or lion, or your own as package.module:function. The function is
        called with the learning rate, an `optax.Schedule`, and with those of the options below that it has arguments
        of; it returns an `optax.GradientTransformation`.
      learning_rate: the peak learning rate.
      schedule: constant, cosine, linear or exponential, from the end of the warm-up to that of the run; or staircase.
      warmup_steps: steps over which the learning rate rises from zero.
      final_fraction: the final learning rate as a fraction of `learning_rate`.
      decay_after, decay_rate: for staircase, the epochs before the first decay, and the factor for each later epoch.
      momentum: for sgd and rmsprop.
      b1, b2: for adam, adamw, lamb and lion, how much of the means of gradients, and of their squares, a step keeps;
        None takes optax's: 0.9, and 0.999 or, for lion, 0.99.
      eps: for all but sgd and lion, what is added where a step divides; None takes optax's.
      weight_decay: decoupled, of every parameter that is not `undecayed`, for adamw, lamb and lion; None takes optax's:
        1e-4, 0 and 1e-3.
      undecayed: a regular expression; parameters whose whole path it matches, such as .*bias, are left out of weight
        decay. Your own function is given it as `mask`, the argument of optax's.
      clip_norm: if given, gradients are scaled to at most this global norm.
      accumulate: training steps that one update takes the mean gradient of, before it is clipped; the last steps of a
        run, where they are fewer, update nothing. The schedule still goes by training steps: an update has the learning
        rate of the last of its own.
      ema_decay: how much of a running average of the parameters a training step keeps, such as 0.999, from the first
        parameters on. Runs are then evaluated, chosen, kept and exported by the average; 0 takes none.
    """

    later_fields = ("b1", "b2", "eps", "undecayed", "accumulate", "ema_decay")

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    decay_after: int = 1
    decay_rate: float = 1.0
    momentum: float | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    undecayed: str = ""
    clip_norm: float | None = None
    accumulate: int = 1
    ema_decay: float = 0.0

    def check(self) -> None:
        super().check()
        build_optimizer(self, fewest_steps(self))


def fewest_steps(config: OptimizerConfig) -> int:
    """Returns the number of steps of the shortest run that has such an optimiser."""
    return max(config.warmup_steps + 1, config.accumulate, 1)


_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
    "adagrad": optax.adagrad,
    "lamb": optax.lamb,
    "lion": optax.lion,
}
_OPTIONS = ("momentum", "b1", "b2", "eps", "weight_decay")  # passed on to an optimiser that has them
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
      ConfigError: for an unknown name, a field that the optimiser does not have, or a rate that is not positive; for
        one of the user's own that raises an error, or returns something else.
    """
    _check_optimizer(config, steps)
    _check_schedule(config, steps)
    config = dataclasses.replace(config, **traced) if traced else config
    schedule = _schedule(config, steps, epoch_steps)
    optimizer = _made(config, _of_updates(schedule, config.accumulate))
    if config.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if config.accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    optimizer = _leaving(frozen, optimizer) if frozen else optimizer
    return Optimizer(_averaging(config.ema_decay, optimizer) if config.ema_decay else optimizer, schedule)


def _of_updates(schedule: optax.Schedule, accumulate: int) -> optax.Schedule:
    """Returns the learning rate by updates, from one by training steps: each has that of the last of its steps."""
    return schedule if accumulate == 1 else lambda update: schedule((update + 1) * accumulate - 1)


def _made(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimiser that a config names, by itself."""
    options = {name: getattr(config, name) for name in _OPTIONS if getattr(config, name) is not None}
    if config.undecayed:
        options["mask"] = lambda params: jax.tree_util.tree_map_with_path(
            lambda keys, _: not matches(config.undecayed, in_model(path_of(keys))), params
        )
    try:
        optimizer = _function(config.name)(schedule, **options)
    except jax.errors.JAXTypeError:  # it cannot take a traced value, which is for the caller to know
        raise
    except (Exception, SystemExit) as error:  # a user's function can raise anything
        raise ConfigError(f"{config.name}: {first_line(error)}") from error
    fits = isinstance(optimizer, optax.GradientTransformation)
    require(fits, f"{config.name} must return an optax.GradientTransformation, got {type(optimizer).__name__}")
    return optimizer


def _function(name: str) -> Callable[..., Any]:
    """Returns the function that makes the optimiser of a name, of optax or of the user's own."""
    unknown = f"unknown optimizer.name {name!r}"
    choose = f"choose from {', '.join(_OPTIMIZERS)}, or name your own as package.module:function"
    require(":" in name or name in _OPTIMIZERS, f"{unknown}; {choose}{did_you_mean(name, _OPTIMIZERS)}")
    function = named_object(name, unknown) if ":" in name else _OPTIMIZERS[name]
    require(callable(function), f"optimizer.name must name a function, got {name!r}")
    return function


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Says whether a function has an argument that can be given by a name."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a few functions of C tell none
        return False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return any_name or (name in parameters and parameters[name].kind in by_name)


def _leaving(frozen: str, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: "frozen" if matches(frozen, in_model(path_of(keys))) else "trained", params
        )

    kinds: dict[Hashable, Any] = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return optax.multi_transform(kinds, labels)


class Averaged(NamedTuple):
    """The state of an optimiser that keeps a running average of the parameters, in their structure."""

    average: Any
    state: Any


def _averaging(decay: float, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimiser that keeps a running average of the parameters beside what it does."""

    def init(params: Any) -> Averaged:
        small = next((leaf.dtype for leaf in jax.tree.leaves(params) if jnp.finfo(leaf.dtype).bits < 32), None)
        require(
            small is None, f"optimizer.ema_decay needs parameters of float32, which keep small changes, got {small}"
        )
        return Averaged(jax.tree.map(jnp.array, params), optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Averaged]:
        updates, inner = optimizer.update(updates, state.state, params)
        new = optax.apply_updates(params, updates)
        # In this form what does not change, such as a frozen parameter, has itself as its average, to the last bit.
        average = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.average, new)
        return updates, Averaged(average, inner)

    return optax.GradientTransformation(init, update)


def check_frozen(pattern: str, params: Any) -> None:
    """Raises `ConfigError` for a pattern that matches no parameter, or leaves none to train; it names the parameters.

    Args:
      pattern: a regular expression; nothing is frozen where it is empty.
      params: the parameters, or their shapes.
    """
    paths = _check_matches_some("frozen", pattern, params)
    trained = any(not matches(pattern, path) for path in paths)
    require(trained, f"frozen = {pattern!r} leaves no parameter to be trained of {_shown(paths)}")


def check_undecayed(pattern: str, params: Any) -> None:
    """Raises `ConfigError`, as `check_frozen`, for a pattern that matches no parameter."""
    _check_matches_some("optimizer.undecayed", pattern, params)


def _check_matches_some(field: str, pattern: str, params: Any) -> list[str]:
    """Returns the paths of the parameters, some of which the pattern matches where it is not empty."""
    paths = list(map(in_model, by_path(params)))
    known = not pattern or any(matches(pattern, path) for path in paths)
    require(known, f"{field} = {pattern!r} matches none of the parameters, which are {_shown(paths)}")
    return paths


def _shown(paths: list[str]) -> str:
    return ", ".join(paths[:_MOST_SHOWN]) + (", ..." if len(paths) > _MOST_SHOWN else "")


def _check_optimizer(config: OptimizerConfig, steps: int) -> None:
    function = _function(config.name)
    for name in _OPTIONS:
        known = getattr(config, name) is None or _takes(function, name)
        require(known, f"{config.name} has no {name}; leave optimizer.{name} out")
    for name in ("b1", "b2"):
        value = getattr(config, name)
        require(value is None or 0 <= value < 1, f"optimizer.{name} must be from 0 to below 1, got {value}")
    undecayed = config.undecayed
    require(is_pattern(undecayed), f"optimizer.undecayed must be a regular expression, got {undecayed!r}")
    known = not undecayed or _takes(function, "mask")
    require(known, f"{config.name} has no mask of its weight decay; leave optimizer.undecayed out")
    require(config.eps is None or config.eps > 0, f"optimizer.eps must be positive, got {config.eps}")
    require(
        config.clip_norm is None or config.clip_norm > 0,
        f"optimizer.clip_norm must be positive, got {config.clip_norm}",
    )
    keeps = 0 <= config.ema_decay < 1
    require(keeps, f"optimizer.ema_decay must be from 0 to below 1, got {config.ema_decay}")
    require(config.accumulate >= 1, f"optimizer.accumulate must be at least 1, got {config.accumulate}")
    updates = config.accumulate <= steps
    require(updates, f"optimizer.accumulate must be at most {steps}, the steps of the run, got {config.accumulate}")


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
