"""A per-device function mapped over a mesh, by `jax.shard_map` or by `jax.pmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from rnnjax.errors import ConfigError

Compile = Callable[..., Callable[..., Any]]


def map_over_devices(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Sequence[Any],
    out_specs: Any,
    *,
    map: str = "shard_map",
    donate: Sequence[int] = (),
) -> Compile:
    """Returns ``compile(*arguments)``, which returns the mapped function compiled for arguments like these.

    Both ways take and return the same arrays, whole ones spread over the mesh, and compute the same: `function` runs on
    every device, on its parts, with the mesh's axes for collectives. `jax.pmap` itself wants an axis of devices before
    that of the parts; arrays get it on the way in and lose it on the way out.

    Args:
      function: what one device computes.
      mesh: the devices.
      in_specs: for every argument a pytree prefix of `PartitionSpec`, one split axis in each at most.
      out_specs: the same for what is returned.
      map: "shard_map" or "pmap"; the latter maps over one axis, so the mesh must have one device along any other.
      donate: positions of the arguments whose memory is given away.

    Raises:
      ValueError: if `map` is neither.
      ConfigError: if `jax.pmap` is to split over two axes.
    """
    if map == "shard_map":
        # One device has nothing to keep account of, and `sum_over` then nothing to do.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs, check_vma=mesh.size > 1
        )
        program = jax.jit(mapped, donate_argnums=tuple(donate))
        return lambda *arguments: program.lower(*arguments).compile()
    if map != "pmap":
        raise ValueError(f'map must be "shard_map" or "pmap", got {map!r}')
    return _pmapped(function, mesh, tuple(in_specs), out_specs, tuple(donate))


def _pmapped(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any, donate: tuple[int, ...]
) -> Compile:
    name, others = _mapped_axis(mesh)
    split_axis = functools.partial(_split_axis, name)
    positions = _positions(mesh, name)

    def of_boxed(_: Array, *boxed: tuple[Any]) -> Any:
        return _along_one(function, others)(*(argument for (argument,) in boxed))

    def boxed(arguments: tuple[Any, ...]) -> list[Any]:
        # `jax.pmap` takes axes given as plain numbers for those of single arrays, where the numbers of both agree.
        parts = [(_each(_with_device_axis, mesh, spec, argument),) for spec, argument in zip(in_specs, arguments)]
        return [positions, *parts]

    mapped: Any = jax.pmap(
        of_boxed,
        axis_name=name,
        in_axes=(0, *((jax.tree.map(split_axis, spec),) for spec in in_specs)),
        out_axes=jax.tree.map(split_axis, out_specs),
        devices=tuple(mesh.devices.flat),
        donate_argnums=tuple(1 + position for position in donate),
    )

    def compile_for(*arguments: Any) -> Callable[..., Any]:
        # Compiled ahead, `jax.pmap` takes and returns whole arrays also where processes hold a part of them each.
        program = mapped.lower(*boxed(arguments)).compile()
        return lambda *arguments: _each(_without_device_axis, mesh, out_specs, program(*boxed(arguments)))

    return compile_for


def _positions(mesh: Mesh, name: str) -> Array:
    """Returns an array that is split over the devices, without which `jax.pmap` has none to map over."""
    every = np.arange(mesh.size)
    return jax.make_array_from_callback(every.shape, NamedSharding(mesh, PartitionSpec(name)), lambda part: every[part])


def _mapped_axis(mesh: Mesh) -> tuple[str, list[str]]:
    """Returns the axis of a mesh that has its devices, and the others."""
    split: list[str] = [name for name in mesh.axis_names if mesh.shape[name] > 1] or list(mesh.axis_names)
    if mesh.size > 1 and len(split) > 1:
        sizes = " and ".join(f"{name} {mesh.shape[name]}" for name in split)
        raise ConfigError(
            f"pmap splits over one axis, but the devices split {sizes}: set one to 1, or parallel.map to shard_map"
        )
    return split[0], [name for name in mesh.axis_names if name != split[0]]


def _along_one(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Returns a function that can name some axes more, of one device each."""
    for name in names:
        function = _along(function, name)
    return function


def _along(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def along(*arguments: Any) -> Any:
        results = jax.vmap(function, in_axes=None, axis_name=name, axis_size=1)(*arguments)
        return jax.tree.map(lambda result: result[0], results)

    return along


def _split_axis(name: str, spec: PartitionSpec) -> int | None:
    """Returns the axis of an array that a spec splits over an axis of devices; None where it splits none."""
    return next((axis for axis, split in enumerate(spec) if split == name), None)


def _each(change: Callable[[Mesh, int, Array], Array], mesh: Mesh, specs: Any, tree: Any) -> Any:
    """Returns a pytree with its split arrays changed by ``change(mesh, split axis, array)``."""

    name, _ = _mapped_axis(mesh)

    def of_spec(spec: PartitionSpec, part: Any) -> Any:
        axis = _split_axis(name, spec)
        return part if axis is None else jax.tree.map(functools.partial(change, mesh, axis), part)

    return jax.tree.map(of_spec, specs, tree)


def _with_device_axis(mesh: Mesh, axis: int, array: Array) -> Array:
    """Returns ``[..., B, ...]`` as ``[..., devices, B / devices, ...]``."""
    shape = (*array.shape[:axis], mesh.size, array.shape[axis] // mesh.size, *array.shape[axis + 1 :])
    return _reshaped(array, shape, _split_at(mesh, axis))


def _without_device_axis(mesh: Mesh, axis: int, array: Array) -> Array:
    """Returns ``[..., devices, B / devices, ...]`` as ``[..., B, ...]``."""
    shape = (*array.shape[:axis], array.shape[axis] * array.shape[axis + 1], *array.shape[axis + 2 :])
    return _reshaped(array, shape, _split_at(mesh, axis))


def _split_at(mesh: Mesh, axis: int) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, _mapped_axis(mesh)[0]))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _reshaped(array: Array, shape: tuple[int, ...], sharding: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(array.reshape(shape), sharding)
