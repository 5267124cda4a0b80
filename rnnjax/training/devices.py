"""Chooses how many devices share a batch, and the methods of recurrences, by measuring once per machine.

The two are one choice: a part of a batch is another recurrence than the whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from rnnjax.cache import read_kept, write_kept
from rnnjax.config import TrainConfig
from rnnjax.config_group import to_dict
from rnnjax.files import is_number, is_object
from rnnjax.machine import device_name, versions
from rnnjax.parallel.mesh import device_counts
from rnnjax.tasks.task import Task
from rnnjax.training.directory.choice import Choice, choice_from_json
from rnnjax.training.engine import optimizer_of, training_schedule
from rnnjax.training.interruption import Interrupted, StopRequest
from rnnjax.training.step_seconds import step_seconds, tuned_methods

_log = logging.getLogger(__name__)

_TABLE = "devices.json"  # in the cache
# In a shorter run, a better choice saves less time than the measurement takes.
_STEPS_FOR_DEVICES = 1000
_STEPS_FOR_METHODS = 5000
_SECONDS_FOR_METHODS = 1800.0  # that the steps of the run take; each method is measured for half a minute
_NOT_IN_A_STEP = ("seed", "epochs", "evaluate_every", "log_every", "steps_per_call", "call_seconds", "parallel")


class Measured(NamedTuple):
    """Seconds of a step by each choice, and whether methods were measured as well as numbers of devices."""

    seconds: Mapping[Choice, float]
    tuned: bool = False


def choose(
    task: Task,
    config: TrainConfig,
    steps: int,
    known: Choice | None,
    stop: StopRequest,
) -> Choice:
    """Returns how many devices share a batch, and the methods of recurrences.

    A number of devices in the config is taken as it is. A run that is resumed keeps the choice that it began with. For
    a new run that is long enough, a step is measured on each number of devices that may be fastest, and, if the run
    takes half an hour or more, also by the methods that are fastest for its recurrences. A step that was measured on
    the same machine before is not measured again.

    Args:
      task: the task.
      config: the config.
      steps: number of steps of the whole run.
      known: what the run began with, if it is resumed.
      stop: ends the measurement.

    Raises:
      ConfigError: if there are fewer devices than the config asks for.
      Interrupted: if a signal stopped the measurement.
    """
    counts = device_counts(config.parallel.batch, config.batch_size, config.parallel.layers, config.parallel.time)
    if known is not None and known.devices in counts:
        return known
    if not _measures(config, counts, steps):
        return Choice(counts[0])
    fastest = stop.unless_stopped(lambda: _fastest(task, config, steps, counts))
    if fastest is None:
        raise Interrupted(f"stopped by {stop.signal} before the first step")
    return fastest


def _fastest(task: Task, config: TrainConfig, steps: int, counts: Sequence[int]) -> Choice:
    """Returns the fastest choice for a step, as measured before, or else now."""
    key, table = step_key(task, config), read_table()
    known = read_measured(table.get(key), counts)
    measured = known or Measured(_seconds(task, config, [Choice(count) for count in counts]))
    if not measured.tuned and steps * min(measured.seconds.values()) >= _SECONDS_FOR_METHODS:
        measured = _with_methods(task, config, measured)
    if measured is not known:
        write_table(table | {key: measured_as_json(measured)})
    fastest = min(measured.seconds, key=measured.seconds.__getitem__)
    _log.info("a step takes %s", ", ".join(_described(*each, fastest) for each in measured.seconds.items()))
    return fastest


def _measures(config: TrainConfig, counts: Sequence[int], steps: int) -> bool:
    """Says whether anything is measured for a run; not where several processes would choose differently."""
    whole = config.parallel.layers == config.parallel.time == "1" and jax.process_count() == 1
    return config.parallel.tune and whole and steps >= (_STEPS_FOR_DEVICES if len(counts) > 1 else _STEPS_FOR_METHODS)


def _with_methods(task: Task, config: TrainConfig, measured: Measured) -> Measured:
    """Adds the choices of the fastest methods for a step's recurrences, all measured in turns."""
    _log.info("measuring methods for the recurrences of a step, once; --config.parallel.tune=False takes the rule's")
    tuned = [Choice(choice.devices, tuned_methods(task, config, choice.devices)) for choice in measured.seconds]
    choices = list(dict.fromkeys([*measured.seconds, *tuned]))
    if len(choices) == len(measured.seconds):
        return measured._replace(tuned=True)
    return Measured(_seconds(task, config, choices), tuned=True)


def _seconds(task: Task, config: TrainConfig, choices: Sequence[Choice]) -> dict[Choice, float]:
    """Returns the seconds that a training step takes by each choice."""
    return step_seconds(task, config, optimizer_of(config, training_schedule(task, config))(), choices)


def _described(choice: Choice, seconds: float, fastest: Choice) -> str:
    names = sorted({repr(method) for _, method in choice.methods})
    by = f" by {' and '.join(names)}" if names else ""
    return f"{1000 * seconds:.2f} ms on {choice.devices}{by}{' (taken)' if choice == fastest else ''}"


def step_key(task: Task, config: TrainConfig) -> str:
    """Returns a digest of all that a step's time depends on: config, shapes of the data, machine and versions."""
    shapes = {name: [str(values.dtype), *values.shape[1:]] for name, values in task.data.splits["train"].items()}
    settings = {name: value for name, value in to_dict(config).items() if name not in _NOT_IN_A_STEP}
    machine = [device_name(), jax.device_count(), versions()]
    return hashlib.sha256(json.dumps([settings, shapes, machine], sort_keys=True).encode()).hexdigest()[:16]


def measured_as_json(measured: Measured) -> dict[str, Any]:
    """Returns what was measured as an object to be written to a file."""
    choices = [choice.as_json() | {"seconds": seconds} for choice, seconds in measured.seconds.items()]
    return {"tuned": measured.tuned, "choices": choices}


def read_measured(entry: Any, counts: Sequence[int]) -> Measured | None:
    """Returns the content of an entry of the table; None if it is damaged, or lacks a number of devices."""
    if not isinstance(entry, dict) or not isinstance(entry.get("choices"), list):
        return None
    seconds = {choice_from_json(each): each.get("seconds") for each in entry["choices"] if is_object(each)}
    whole = {choice: value for choice, value in seconds.items() if choice is not None and is_number(value)}
    if len(whole) < len(entry["choices"]) or {choice.devices for choice in whole} != set(counts):
        return None
    return Measured(whole, entry.get("tuned") is True)


def read_table() -> dict[str, Any]:
    """Returns what was measured before, by `step_key`; empty if it cannot be read."""
    return read_kept(_TABLE, "it is measured anew")


def write_table(table: dict[str, Any]) -> None:
    """Writes what was measured to the cache."""
    write_kept(_TABLE, table, "the next run measures again")
