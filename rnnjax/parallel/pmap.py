"""A per-device function mapped by `jax.pmap` over the one axis of a mesh that has several devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from rnnjax.errors import ConfigError

Function = Callable[..., Any]
Compile = Callable[..., Function]


def pmapped(function: Function, mesh: Mesh, in_specs: Any, out_specs: Any, donate: tuple[int, ...]) -> Compile:
    """Returns what `map_over_devices` does, by `jax.pmap`.

    It needs a leading axis of devices, which is added to the arguments of a call and removed from its results.

    Args:
      function, mesh, in_specs, out_specs, donate: as for `map_over_devices`.

    Raises:
      ConfigError: if there are devices along two axes.
    """
    name, others = _mapped_axis(mesh)
    split_axis = functools.partial(_split_axis, name)
    positions = _positions(mesh, name)

    def on_device(_: Array, *boxed: tuple[Any]) -> Any:
        return _with_axes_of_size_one(function, others)(*(argument for (argument,) in boxed))

    def pmap_arguments(arguments: tuple[Any, ...]) -> list[Any]:
        split = [_map_split(_with_device_axis, mesh, spec, argument) for spec, argument in zip(in_specs, arguments)]
        # Each in a tuple: a pytree with as many leaves as its `in_axes` would else be taken for a list of arguments.
        return [positions, *((argument,) for argument in split)]

    mapped: Any = jax.pmap(
        on_device,
        axis_name=name,
        in_axes=(0, *((jax.tree.map(split_axis, spec),) for spec in in_specs)),
        out_axes=jax.tree.map(split_axis, out_specs),
        devices=tuple(mesh.devices.flat),
        donate_argnums=tuple(1 + position for position in donate),  # behind `positions`
    )

    def compile_for(*arguments: Any) -> Function:
        # If compiled ahead of time, `jax.pmap` also takes and returns arrays that are sharded over several processes.
        program = mapped.lower(*pmap_arguments(arguments)).compile()

        def call(*arguments: Any) -> Any:
            return _map_split(_without_device_axis, mesh, out_specs, program(*pmap_arguments(arguments)))

        return call

    return compile_for


def _positions(mesh: Mesh, name: str) -> Array:
    """Returns the devices' positions, split over them: `jax.pmap` needs at least one array to map over."""
    positions = np.arange(mesh.size)
    sharding = NamedSharding(mesh, PartitionSpec(name))
    return jax.make_array_from_callback(positions.shape, sharding, lambda index: positions[index])


def _mapped_axis(mesh: Mesh) -> tuple[str, list[str]]:
    """Returns the axis of a mesh that its devices are along, and the other axes.

    Raises:
      ConfigError: if there are devices along two axes.
    """
    split: list[str] = [name for name in mesh.axis_names if mesh.shape[name] > 1] or list(mesh.axis_names)
    if mesh.size > 1 and len(split) > 1:
        sizes = " and ".join(f"{name} {mesh.shape[name]}" for name in split)
        raise ConfigError(
            f"pmap splits over one axis, but the devices split {sizes}: set one to 1, or parallel.map to shard_map"
        )
    return split[0], [name for name in mesh.axis_names if name != split[0]]


def _with_axes_of_size_one(function: Function, names: Sequence[str]) -> Function:
    """Returns a function that can also use some axes of one device each in collectives."""
    for name in names:
        function = _with_axis_of_size_one(function, name)
    return function


def _with_axis_of_size_one(function: Function, name: str) -> Function:
    def mapped(*arguments: Any) -> Any:
        results = jax.vmap(function, in_axes=None, axis_name=name, axis_size=1)(*arguments)
        return jax.tree.map(lambda result: result[0], results)

    return mapped


def _split_axis(name: str, spec: PartitionSpec) -> int | None:
    """Returns the axis of an array that a spec splits over an axis of the mesh; None if it splits none."""
    return next((axis for axis, split in enumerate(spec) if split == name), None)


def _map_split(change: Callable[[Mesh, int, Array], Array], mesh: Mesh, specs: Any, tree: Any) -> Any:
    """Returns a pytree whose split arrays are replaced by ``change(mesh, split axis, array)``."""
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
