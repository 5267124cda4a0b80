"""How many devices share a batch where the config leaves it open: measured once, then known."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from rnnjax.cache import cache_directory
from rnnjax.config import TrainConfig
from rnnjax.config_group import to_dict
from rnnjax.files import is_number, is_object, read_json, write_json
from rnnjax.machine import device_name, versions
from rnnjax.parallel.mesh import batch_mesh, device_counts
from rnnjax.tasks.task import Task
from rnnjax.training.batches import Order, device_feed
from rnnjax.training.program import TrainProgram, place_state
from rnnjax.training.run_directory import RunDirectory
from rnnjax.training.state import TrainState, initial_train_state

_log = logging.getLogger(__name__)

_WORTH_MEASURING = 1000  # steps; a shorter run is over before a better choice has paid for the measurement
_STEPS, _SECONDS = 8, 0.5  # steps in a measured call, and the least time of measuring each number of devices
_NOT_IN_A_STEP = ("seed", "epochs", "evaluate_every", "log_every", "steps_per_call", "call_seconds", "parallel")


def choose_devices(
    task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, steps: int, run: RunDirectory
) -> int:
    """Returns how many devices share a batch.

    A number in the config stands. "auto" takes what the run began with; else the fastest of what may pay, as it was
    measured for such a step on such a machine before, or is measured now where the run is long enough.

    Args:
      task, config, optimizer: of the run.
      steps: how many the whole run has.
      run: its directory.

    Raises:
      ConfigError: if there are not so many devices.
    """
    counts = device_counts(config.parallel.batch, config.batch_size, config.parallel.layers)
    if len(counts) == 1:
        return counts[0]
    begun = run.devices()
    if begun in counts:
        return begun
    if steps < _WORTH_MEASURING:
        return counts[0]
    key, table = step_key(task, config), read_table()
    if not _has_seconds(table.get(key), counts):
        table[key] = {str(count): seconds for count, seconds in step_seconds(task, config, optimizer, counts).items()}
        keep_table(table)
    seconds = {count: table[key][str(count)] for count in counts}
    fastest = min(counts, key=seconds.__getitem__)
    measured = ", ".join(f"{1000 * seconds[count]:.2f} ms on {count}" for count in counts)
    _log.info("devices that share a batch: %d (a step takes %s)", fastest, measured)
    return fastest


def step_key(task: Task, config: TrainConfig) -> str:
    """Returns a name for what a step's time depends on: the config, the shapes of the data, machine and versions."""
    shapes = {name: [str(values.dtype), *values.shape[1:]] for name, values in task.data.splits["train"].items()}
    settings = {name: value for name, value in to_dict(config).items() if name not in _NOT_IN_A_STEP}
    machine = [device_name(), jax.device_count(), versions()]
    return hashlib.sha256(json.dumps([settings, shapes, machine], sort_keys=True).encode()).hexdigest()[:16]


def step_seconds(
    task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, counts: Sequence[int]
) -> dict[int, float]:
    """Returns the seconds of a training step on each number of devices, taken in turns."""
    initial = initial_train_state(task, optimizer)
    calls = {count: steps_call(task, config, optimizer, initial(config.seed), count, _STEPS) for count in counts}
    times: dict[int, list[float]] = {count: [] for count in counts}
    for call in calls.values():
        call()  # compiles
    while min(map(sum, times.values())) < _SECONDS:
        for count, call in calls.items():
            started = time.perf_counter()
            call()
            times[count].append(time.perf_counter() - started)
    return {count: statistics.median(taken) / _STEPS for count, taken in times.items()}


def steps_call(
    task: Task,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    devices: int,
    steps: int,
) -> Callable[[], Any]:
    """Returns a call that takes some steps on so many devices, each on the first examples, and gives their metrics."""
    mesh = batch_mesh(str(devices), config.batch_size)
    batch = {name: values[: config.batch_size] for name, values in task.data.splits["train"].items()}
    program = TrainProgram(task, optimizer, mesh, device_feed(mesh, batch), config.batch_size, config.parallel.via)
    buckets = None if task.buckets is None else np.full(steps, len(task.buckets.widths) // 2)
    order = Order(np.tile(np.arange(config.batch_size), (steps, 1)), buckets)
    state = place_state(mesh, state)

    def call() -> Any:
        nonlocal state
        state, metrics = program(state, order)
        return jax.block_until_ready(metrics)

    return call


def read_table() -> dict[str, dict[str, float]]:
    """Returns the seconds measured before, by `step_key` and number of devices; nothing where they cannot be read."""
    return read_json(_table(), is_object, "it is measured anew") or {}


def _has_seconds(measured: Any, counts: Sequence[int]) -> bool:
    """Says whether an entry of the table has the seconds for each number of devices."""
    return isinstance(measured, dict) and all(is_number(measured.get(str(count))) for count in counts)


def keep_table(table: dict[str, dict[str, float]]) -> None:
    """Keeps what was measured; where that cannot be written, the next run measures again."""
    try:
        _table().parent.mkdir(parents=True, exist_ok=True)
        write_json(_table(), table)
    except OSError as error:
        _log.info("%s cannot be written (%s): the next run measures again", _table(), error.strerror)


def _table() -> Path:
    return cache_directory() / "devices.json"
