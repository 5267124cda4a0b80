"""What compiled kernels of all kinds of cells have in common: their contract, and how arrays are handed to calls."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnnjax.cells.cell import Params, State
from rnnjax.unrolling.kernels.traced_gates import by_unit
from rnnjax.unrolling.varying import vary, varying_axes


class Differentiable(NamedTuple):
    """The parts of a recurrence that have gradients; z is None where the kernel computes it, and xs where not."""

    params: Params
    state: State
    initial: State | None
    z: Any
    xs: Float[Array, "T *B I"] | None


Masks = tuple[Bool[Array, "T *B"] | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)  # hashable whatever the cell is
class Kernel(ABC):
    """A compiled kernel.

    Attributes:
      cell: the cell.
      forward, backward: the names under which XLA knows its calls.
      plan: how arrays are handed to them.
    """

    cell: Any
    forward: str
    backward: str
    plan: Any

    @property
    @abstractmethod
    def over_time(self) -> tuple[bool, ...]:
        """For each output whether it is ``[T, *batch, ...]``; otherwise it is ``[*batch, ...]``."""

    @abstractmethod
    def run(self, arrays: Differentiable, masks: Masks, *, keeps: bool) -> tuple[list[Array], list[Array]]:
        """Returns the outputs, and what the gradients need if it `keeps` that, each ``[some steps, *batch, ...]``."""

    @abstractmethod
    def gradients(
        self, arrays: Differentiable, masks: Masks, kept: list[Array], d_outputs: list[Array], *, wants_x: bool
    ) -> Differentiable:
        """Returns the gradients of the arrays from those of the outputs; that of z or xs may be zeros if unwanted."""

    @abstractmethod
    def reference(self, arrays: Differentiable, masks: Masks) -> list[Array]:
        """Returns the outputs by another method, one that JAX can differentiate in every way."""


def rows_of(tree: Any) -> list[Array]:
    """Returns the leaves ``[*batch, H]`` of a state with all batch axes as one."""
    return [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(tree)]


def z_by_unit(leaves: list[Array], batch_axes: int, size: int) -> Float[Array, "T B n H"]:
    """Returns leaves ``[T, *batch, ...]`` of z with all batch axes as one, and what each unit has of them."""
    flat = (leaf.reshape(leaf.shape[0], -1, *leaf.shape[1 + batch_axes :]) for leaf in leaves)
    return jnp.concatenate([by_unit(leaf, size, 2) for leaf in flat], -2)


def flat_masks(arrays: Differentiable, masks: Masks) -> list[Array]:
    """Returns masks ``[T, B]``, without entries for those that are not there."""
    leaf = jax.tree.leaves(arrays.state)[0]
    batch = leaf.size // leaf.shape[-1]
    return [jnp.zeros(0, bool) if mask is None else mask.reshape(-1, batch) for mask in masks]


def sizes(operands: Any, **more: int) -> dict[str, Any]:
    """Returns the sizes that a call takes as attributes."""
    T, (B, H) = operands.x.shape[0], operands.start[0].shape
    named = {"T": T, "B": B, "I": operands.x.shape[-1], "H": H, **more}
    return {name: np.int64(size) for name, size in named.items()}


def called(
    name: str,
    arguments: list[Array],
    shapes: list[tuple[int, ...]],
    attributes: dict[str, Any],
    replaced: dict[int, int] | None = None,
) -> list[Array]:
    """Returns what a call returns.

    Args:
      name: under which XLA knows it.
      arguments: its arrays.
      shapes: of its results.
      attributes: its sizes.
      replaced: for each argument that a result is written over, by its number, that of the result.
    """
    # Inside `jax.shard_map` XLA's calls require arrays that vary over the same mesh axes.
    arguments = vary(arguments, varying_axes(arguments))
    results = [_like(shape, arguments[0]) for shape in shapes]
    call = jax.ffi.ffi_call(name, results, input_output_aliases=replaced, vmap_method="sequential")
    return list(call(*arguments, **attributes))


def _like(shape: tuple[int, ...], array: Array) -> Any:
    """Returns the shape and type of a result, which varies over the mesh axes that an array varies over."""
    axes = varying_axes(array)
    # Only the type of an array says so in every version; the array itself is never computed.
    return jax.typeof(vary(jnp.zeros(shape, jnp.float32), axes)) if axes else jax.ShapeDtypeStruct(shape, jnp.float32)
