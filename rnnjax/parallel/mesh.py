"""The mesh of devices that a run uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from rnnjax.backend import device_takes_all_cores
from rnnjax.errors import ConfigError
from rnnjax.whole_numbers import whole_number

BATCH, LAYERS = "batch", "layers"
_SMALLEST_PART = 32  # below it, a CPU core spends more time on waiting for the others than on its part of the batch


def provide_cpu_devices() -> None:
    """Makes every CPU core a device of its own, where that is not settled yet; before JAX is first used."""
    settings: Any = jax.config
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if settings.jax_num_cpu_devices <= 0 and not forced:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def device_counts(choice: str, batch_size: int, layers: str = "1") -> tuple[int, ...]:
    """Returns the numbers of devices that may share a batch, the likeliest to be the fastest first.

    Args:
      choice: number of devices; "all" that `layers` leaves; or "auto" for the most of those that divide the batch, with
        32 examples each at least on CPUs, where one device that has all cores may be as fast and is the other
        possibility. Of several processes "auto" is all.
      batch_size: examples in a batch.
      layers: number of devices that share the layers, for each part of the batch, or "all".
    """
    available = max(jax.device_count() // _depth(layers), 1)
    if choice != "auto" or jax.process_count() > 1:
        return (whole_number(choice) or available,)
    most = _auto_count(available, batch_size)
    return (most, 1) if most > 1 and layers == "1" and device_takes_all_cores() else (most,)


def batch_mesh(choice: str, batch_size: int, layers: str = "1") -> Mesh:
    """Returns a mesh with an axis over which batches are split, and where layers are split too, one for them.

    Args:
      choice: number of devices, "all" or "auto", as for `device_counts`, whose first is taken; of each process the
        first devices.
      batch_size: examples in a batch; where it does not divide, `filled_batch` says how many each batch gets.
      layers: as for `device_counts`.

    Raises:
      ConfigError: if there are not so many devices, or the processes of the run cannot give the same number each.
    """
    devices = jax.devices()
    count, depth = device_counts(choice, batch_size, layers)[0], _depth(layers)
    if count * depth > len(devices):
        asked = f"parallel.batch asks for {count}"
        if depth > 1:
            asked = f"parallel.batch and parallel.layers ask for {count} x {depth}"
        raise ConfigError(f"{asked} devices, but there are {len(devices)} ({devices[0].device_kind})")
    shape, names = ((count,), (BATCH,)) if depth == 1 else ((count, depth), (BATCH, LAYERS))
    chosen = _of_every_process(devices, count * depth)
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names), devices=chosen)


def _of_every_process(devices: Sequence[Any], count: int) -> list[Any]:
    """Returns so many devices, the first ones of each process."""
    processes = jax.process_count()
    each, rest = divmod(count, processes)
    parts = [[device for device in devices if device.process_index == process][:each] for process in range(processes)]
    if rest or any(len(part) < each for part in parts):
        raise ConfigError(
            f"{count} devices cannot be the same number in each of {processes} processes; set parallel.batch to a "
            f"multiple of {processes} that each process has devices for"
        )
    return [device for part in parts for device in part]


def filled_batch(mesh: Mesh, batch_size: int) -> int:
    """Returns the size of a batch that is filled up until it divides over the devices of the mesh."""
    return -(-batch_size // mesh.shape[BATCH]) * mesh.shape[BATCH]


def _depth(layers: str) -> int:
    return jax.device_count() if layers == "all" else int(layers)


def _auto_count(available: int, batch_size: int) -> int:
    smallest = _SMALLEST_PART if device_takes_all_cores() else 1
    counts = range(available, 1, -1)
    return next((n for n in counts if batch_size % n == 0 and batch_size // n >= smallest), 1)
