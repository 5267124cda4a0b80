"""The calls of a compiled kernel, and the form in which it takes the arrays of a recurrence."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnnjax.cells.cell import Params, State
from rnnjax.unrolling.kernels.traced_gates import by_unit
from rnnjax.unrolling.native.source import Plan
from rnnjax.unrolling.varying import vary, varying_axes


class Differentiable(NamedTuple):
    """The parts of a recurrence that have gradients; z is None where the kernel computes it, and xs where not."""

    params: Params
    state: State
    initial: State | None
    z: Any
    xs: Float[Array, "T *B I"] | None


class Operands(NamedTuple):
    """The arrays that a kernel takes, all batch axes as one; what it does not need has no entries.

    Attributes:
      x: the inputs ``[T, B, I]``, or z ``[T, B, n, H]``.
      w_x, bias: what the inputs are projected by, ``[I, G, H]`` and ``[G, H]``.
      w: the recurrent weight ``[H, G, H]``.
      params: the parameters that the gates read, ``[n, H]``.
      start, initial: leaves ``[B, H]`` of the first state and of the one that resets go to.
    """

    x: Array
    w_x: Array
    bias: Array
    w: Array
    params: Array
    start: list[Array]
    initial: list[Array]


class Kernel(NamedTuple):
    """A compiled kernel: the names of its calls, and how arrays are handed to them."""

    forward: str
    backward: str
    plan: Plan


Masks = tuple[Bool[Array, "T *B"] | None, ...]


def operands_of(cell: Any, kernel: Kernel, arrays: Differentiable) -> Operands:
    """Returns a recurrence's arrays in the form that the kernel takes."""
    plan = kernel.plan
    batch = arrays.state.h.ndim - 1
    empty = jnp.zeros(0, jnp.float32)
    read = [leaf for leaf, is_read in zip(jax.tree.leaves(arrays.params), plan.reads_params) if is_read]
    params = [by_unit(leaf, plan.hidden) for leaf in read]

    def rows(tree: Any) -> list[Array]:
        return [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(tree)]

    if plan.projected:
        w_x = arrays.params.w_x
        # What `inputs` adds to a projected input of zero.
        bias = cell.gate_inputs(arrays.params, jnp.zeros((1, *w_x.shape[1:]), jnp.float32))[0]
        x = arrays.xs.reshape(arrays.xs.shape[0], -1, arrays.xs.shape[-1])  # pyright: ignore[reportOptionalMemberAccess]
    else:
        w_x = bias = empty
        x = jnp.concatenate([_z_by_unit(leaf, batch, plan.hidden) for leaf in jax.tree.leaves(arrays.z)], -2)
    operands = Operands(
        x,
        w_x,
        bias,
        cell.recurrent_weight(arrays.params),
        jnp.concatenate(params) if params else empty,
        rows(arrays.state),
        [empty] * plan.leaves if arrays.initial is None else rows(arrays.initial),
    )
    return vary(operands, varying_axes(arrays))


def _z_by_unit(leaf: Array, batch_axes: int, size: int) -> Float[Array, "T B n H"]:
    """Returns a leaf ``[T, *batch, ...]`` of z with all batch axes as one, and what each unit has of it."""
    return by_unit(leaf.reshape(leaf.shape[0], -1, *leaf.shape[1 + batch_axes :]), size, 2)


def flat_masks(arrays: Differentiable, masks: Masks) -> list[Array]:
    """Returns masks ``[T, B]``, without entries for those that are not there."""
    batch = arrays.state.h.size // arrays.state.h.shape[-1]
    return [jnp.zeros(0, bool) if mask is None else mask.reshape(-1, batch) for mask in masks]


def _sizes(operands: Operands) -> dict[str, Any]:
    """Returns the sizes that a call takes as attributes."""
    T, (B, H) = operands.x.shape[0], operands.start[0].shape
    sizes = {"T": T, "B": B, "I": operands.x.shape[-1], "H": H}
    return {name: np.int64(size) for name, size in sizes.items()}


def call_forward(kernel: Kernel, operands: Operands, masks: list[Array]) -> list[Array]:
    """Returns z, r and the leaves of the states after all steps, each ``[T, B, ...]``."""
    plan = kernel.plan
    arguments = _alike([*operands[:5], *masks, *operands.start, *operands.initial])
    T, (B, H) = operands.x.shape[0], operands.start[0].shape
    shapes = [(T, B, plan.entries, H), (T, B, plan.own_products, H), *[(T, B, H)] * plan.leaves]
    call = jax.ffi.ffi_call(
        kernel.forward,
        [_like(shape, arguments[0]) for shape in shapes],
        # z is replaced where it is given.
        input_output_aliases=None if plan.projected else {0: 0},
        vmap_method="sequential",
    )
    return list(call(*arguments, **_sizes(operands)))


def call_backward(
    kernel: Kernel, operands: Operands, masks: list[Array], kept: Any, d_ys: Array, d_last: list[Array]
) -> Operands:
    """Returns the gradients of the operands.

    Args:
      kernel: the kernel.
      operands: what the call forward took.
      masks: likewise.
      kept: what it returned.
      d_ys: the gradient of the outputs ``[T, B, H]``.
      d_last: the gradients of the leaves of the last state.
    """
    plan, (z, r, *states) = kernel.plan, kept
    # z was replaced by what is kept: it is not needed again.
    x = operands.x if plan.projected else jnp.zeros(0, jnp.float32)
    own = [x, *operands[1:5], *masks, *operands.start, *operands.initial]
    arguments = _alike([z, r, *own, *states, d_ys, *d_last])
    results = [z, r, *operands[1:5], *operands.start, *operands.initial]
    call = jax.ffi.ffi_call(
        kernel.backward,
        [_like(result.shape, arguments[0]) for result in results],
        input_output_aliases={0: 0, 1: 1},
        vmap_method="sequential",
    )
    d_z, _, d_w_x, d_bias, d_w, d_params, *d_states = call(*arguments, **_sizes(operands))
    d_x = jnp.tensordot(d_z, operands.w_x, ((2, 3), (1, 2))) if plan.projected else d_z
    return Operands(d_x, d_w_x, d_bias, d_w, d_params, d_states[: plan.leaves], d_states[plan.leaves :])


def _alike(arguments: list[Array]) -> list[Array]:
    """Returns arrays that vary over the same mesh axes, as XLA's calls require inside `jax.shard_map`."""
    return vary(arguments, varying_axes(arguments))


def _like(shape: tuple[int, ...], array: Array) -> Any:
    """Returns the shape and type of a result, which varies over the mesh axes that an array varies over."""
    axes = varying_axes(array)
    # Only the type of an array says so in every version; the array itself is never computed.
    return jax.typeof(vary(jnp.zeros(shape, jnp.float32), axes)) if axes else jax.ShapeDtypeStruct(shape, jnp.float32)
