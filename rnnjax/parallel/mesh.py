"""The mesh of devices that runs use, how arrays are placed on it, and sums over the devices along an axis.

Every mesh has the same four axes: the runs that are trained together, the parts of a batch, the layers of a stack, and
the parts of the time. Along most of them there is one device.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from rnnjax.backend import device_takes_all_cores
from rnnjax.errors import ConfigError
from rnnjax.unrolling.varying import varying_axes
from rnnjax.whole_numbers import whole_number

RUNS, BATCH, LAYERS, TIME = "runs", "batch", "layers", "time"
EVERYWHERE = PartitionSpec()
_SMALLEST_SHARE = 32  # examples; with fewer, a CPU core waits for the others longer than it computes
_LARGE_LEAF = 2**13  # entries; copying more costs more than another synchronisation of the devices


def provide_cpu_devices() -> None:
    """Makes every CPU core a JAX device, unless the user has set their number; call this before JAX is first used."""
    settings: Any = jax.config
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    # JAX has -1 where nothing was set. Cores are those that this process may run on, not all of the machine's.
    if settings.jax_num_cpu_devices <= 0 and not forced:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def device_counts(choice: str, batch_size: int, layers: str = "1", time: str = "1") -> tuple[int, ...]:
    """Returns the numbers of devices that a batch may be split over, the one expected to be fastest first.

    Args:
      choice: a number of devices; "all" devices that `layers` or `time` leaves; or "auto". With one process, "auto" is
        the largest number that divides the batch, on CPUs with at least 32 examples for each device. There, one device
        that uses all cores may be as fast, and is returned as the alternative. With several processes, it is "all".
      batch_size: examples in a batch.
      layers, time: number of devices that the layers, or the time, are split over, for each part of the batch, or
        "all"; "1" for one of them at least.

    Returns:
      one number, or two if measuring must decide between them.
    """
    # One where there are too few, which `batch_mesh` then refuses by name.
    depth = max(_depth(layers), _depth(time))
    available = max(jax.device_count() // depth, 1)
    if choice != "auto" or jax.process_count() > 1:
        return (whole_number(choice) or available,)
    count = _auto_count(available, batch_size)
    one_may_be_faster = count > 1 and depth == 1 and device_takes_all_cores()
    return (count, 1) if one_may_be_faster else (count,)


def batch_mesh(choice: str, batch_size: int, layers: str = "1", time: str = "1") -> Mesh:
    """Returns a mesh for one run, whose batches are split over devices, and its layers, or its time, if that is asked.

    It has the first devices of every process, the same number of each.

    Args:
      choice: a number of devices, "all" or "auto", as for `device_counts`, whose first number is taken.
      batch_size: examples in a batch; if it does not divide evenly, `filled_batch` gives the padded size.
      layers, time: as for `device_counts`.

    Raises:
      ConfigError: if there are not enough devices, or their number cannot be divided evenly among the processes.
    """
    devices, depths = jax.devices(), {LAYERS: _depth(layers), TIME: _depth(time)}
    count, depth = device_counts(choice, batch_size, layers, time)[0], max(depths.values())
    if count * depth > len(devices):
        request = f"parallel.batch asks for {count}"
        if depth > 1:
            request = f"parallel.batch and parallel.{max(depths, key=depths.__getitem__)} ask for {count} x {depth}"
        raise ConfigError(f"{request} devices, but there are {len(devices)} ({devices[0].device_kind})")
    return _mesh(_of_every_process(devices, count * depth), {BATCH: count, **depths})


def runs_mesh(runs: int, batch: str = "1", layers: str = "1", time: str = "1") -> Mesh:
    """Returns a mesh for many runs: as many at once as this process's devices are enough for, or all of them.

    Args:
      runs: number of runs.
      batch, layers, time: as for `batch_mesh`, but for "all"; "auto" is one device.

    Raises:
      ConfigError: if there are fewer devices than one run takes.
    """
    sizes = {BATCH: 1 if batch == "auto" else int(batch), LAYERS: int(layers), TIME: int(time)}
    share, devices = math.prod(sizes.values()), jax.local_devices()
    if share > len(devices):
        raise ConfigError(
            f"parallel asks for {share} devices for every run of a sweep, but there are {len(devices)} "
            f"({devices[0].device_kind})"
        )
    at_once = min(runs, len(devices) // share)
    return _mesh(devices[: at_once * share], {RUNS: at_once, **sizes})


def _mesh(devices: Sequence[Any], sizes: Mapping[str, int]) -> Mesh:
    names = (RUNS, BATCH, LAYERS, TIME)
    shape = [sizes.get(name, 1) for name in names]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names), devices=devices)


def _of_every_process(devices: Sequence[Any], count: int) -> list[Any]:
    """Returns `count` devices, the first ones of each process.

    Raises:
      ConfigError: if `count` is not a multiple of the number of processes, or a process has too few.
    """
    processes = jax.process_count()
    share, rest = divmod(count, processes)
    by_process = [[device for device in devices if device.process_index == process] for process in range(processes)]
    if rest or any(len(of_process) < share for of_process in by_process):
        raise ConfigError(
            f"{count} devices cannot be the same number in each of {processes} processes; set parallel.batch to a "
            f"multiple of {processes} that each process has devices for"
        )
    return [device for of_process in by_process for device in of_process[:share]]


def filled_batch(mesh: Mesh, batch_size: int) -> int:
    """Returns the size of a batch that is padded until it divides evenly over the devices of the mesh."""
    devices = mesh.shape[BATCH]
    return math.ceil(batch_size / devices) * devices


def padded_runs(mesh: Mesh, runs: int) -> Int[np.ndarray, " padded"]:
    """Returns the numbers of the runs, the last repeated until they divide over the devices; copies are discarded."""
    devices = mesh.shape[RUNS]
    count = math.ceil(runs / devices) * devices
    # All devices compute the same number of runs.
    return np.minimum(np.arange(count), runs - 1)


def place(
    mesh: Mesh, spec: PartitionSpec, tree: PyTree[Shaped[Array | np.ndarray, "..."]]
) -> PyTree[Shaped[Array, "..."]]:
    """Returns a pytree of arrays on the devices of a mesh; each process places the parts of its own devices.

    Args:
      mesh: the devices.
      spec: how every array is split.
      tree: the pytree, equal in all processes.
    """
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(functools.partial(_place_parts, sharding), tree)


def _place_parts(sharding: NamedSharding, leaf: Any) -> Array:
    # NumPy has no keys: their data is placed, and made keys again.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            _place_parts(sharding, jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
        )
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def sum_over(axis: str, tree: PyTree[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
    """Returns the sums of the leaves over a mapped axis, computed by one collective.

    Small leaves are concatenated, because XLA's CPU devices synchronise once per operand. Large leaves are not: XLA's
    CPU compiler splits a long concatenation over threads, and then emits one pass over all of it per operand, with
    masked loads that were measured to cost three times the rest of a training step.

    Args:
      axis: name of the mapped axis; over one device, the tree is returned unchanged.
      tree: a pytree of arrays.
    """
    # Where `jax.shard_map` tracks what varies, only a collective takes the mark off, over one device too.
    if jax.lax.axis_size(axis) == 1 and not varying_axes(tree):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    is_large = [leaf.size >= _LARGE_LEAF for leaf in leaves]
    flat, unflatten = ravel_pytree([leaf for leaf, large in zip(leaves, is_large) if not large])
    large_leaves = [leaf for leaf, large in zip(leaves, is_large) if large]
    # In one `psum`, of which XLA makes one collective.
    flat_sum, large_sums = jax.lax.psum((flat, large_leaves), axis)
    small, large = iter(unflatten(flat_sum)), iter(large_sums)
    return jax.tree.unflatten(structure, [next(large if leaf_is_large else small) for leaf_is_large in is_large])


def _depth(number: str) -> int:
    return jax.device_count() if number == "all" else int(number)


def _auto_count(available: int, batch_size: int) -> int:
    smallest = _SMALLEST_SHARE if device_takes_all_cores() else 1
    counts = range(available, 1, -1)
    return next((count for count in counts if batch_size % count == 0 and batch_size // count >= smallest), 1)
