"""A per-device function mapped over a mesh, by `jax.shard_map` or by `jax.pmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

Compile = Callable[..., Callable[..., Any]]


def map_over_devices(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Sequence[Any],
    out_specs: Any,
    *,
    via: str = "shard_map",
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
      via: "shard_map" or "pmap"; the latter maps over one axis, so the mesh must have no other.
      donate: positions of the arguments whose memory is given away.

    Raises:
      ValueError: if `via` is neither, or `jax.pmap` is to map over a mesh of several axes.
    """
    if via == "shard_map":
        mapped = jax.shard_map(function, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs)
        program = jax.jit(mapped, donate_argnums=tuple(donate))
        return lambda *arguments: program.lower(*arguments).compile()
    if via != "pmap":
        raise ValueError(f'via must be "shard_map" or "pmap", got {via!r}')
    if len(mesh.axis_names) != 1:
        raise ValueError(f"pmap maps over one axis, but the mesh has {', '.join(mesh.axis_names)}; use shard_map")
    return _pmapped(function, mesh, tuple(in_specs), out_specs, tuple(donate))


def _pmapped(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any, donate: tuple[int, ...]
) -> Compile:
    def of_boxed(*boxed: tuple[Any]) -> Any:
        return function(*(argument for (argument,) in boxed))

    def boxed(arguments: tuple[Any, ...]) -> list[tuple[Any]]:
        # `jax.pmap` takes axes given as plain numbers for those of single arrays, where the numbers of both agree.
        return [(_each(_with_device_axis, mesh, spec, argument),) for spec, argument in zip(in_specs, arguments)]

    mapped: Any = jax.pmap(
        of_boxed,
        axis_name=mesh.axis_names[0],
        in_axes=tuple((jax.tree.map(_split_axis, spec),) for spec in in_specs),
        out_axes=jax.tree.map(_split_axis, out_specs),
        devices=tuple(mesh.devices.flat),
        donate_argnums=donate,
    )

    def compile_for(*arguments: Any) -> Callable[..., Any]:
        # Compiled ahead, `jax.pmap` takes and returns whole arrays also where processes hold a part of them each.
        program = mapped.lower(*boxed(arguments)).compile()
        return lambda *arguments: _each(_without_device_axis, mesh, out_specs, program(*boxed(arguments)))

    return compile_for


def _split_axis(spec: PartitionSpec) -> int | None:
    """Returns the axis of an array that a spec splits over devices; None where it splits none."""
    return next((axis for axis, name in enumerate(spec) if name is not None), None)


def _each(change: Callable[[Mesh, int, Array], Array], mesh: Mesh, specs: Any, tree: Any) -> Any:
    """Returns a pytree with its split arrays changed by ``change(mesh, split axis, array)``."""

    def of_spec(spec: PartitionSpec, part: Any) -> Any:
        axis = _split_axis(spec)
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
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names[0]))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _reshaped(array: Array, shape: tuple[int, ...], sharding: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(array.reshape(shape), sharding)
