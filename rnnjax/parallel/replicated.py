"""Values that are equal on every device of a mapped axis: copied for local use, and obtained as sums of local ones."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree, Shaped

from rnnjax.parallel.mesh import sum_over
from rnnjax.unrolling.varying import vary, varying_axes


def copy_to_axis(axis: str, tree: PyTree[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
    """Returns a tree that is equal on every device of an axis as copies that each device may use differently.

    The gradient is the sum of the devices' gradients, computed on every device by one collective for all leaves.
    `jax.shard_map` does the same with one collective per leaf, if it tracks which arrays vary; `jax.pmap` does not do
    it at all. A leaf that already varies over the axis is local to its device, and is returned as it is.

    Args:
      axis: name of the mapped axis.
      tree: a pytree of arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    shared = [differentiable(leaf) and axis not in varying_axes(leaf) for leaf in leaves]
    shared_leaves = [leaf for leaf, is_shared in zip(leaves, shared) if is_shared]
    copies = iter(_copy(shared_leaves, axis))  # in one call, so that their gradients are summed by one collective
    local = [next(copies) if is_shared else vary(leaf, tracked(axis)) for leaf, is_shared in zip(leaves, shared)]
    return jax.tree.unflatten(structure, local)


def copies_of_inputs(axis: str, over_time: PyTree, others: PyTree) -> tuple[PyTree, PyTree]:
    """Returns a method's inputs as copies that each device may use differently, all varying over the same mesh axes.

    Args:
      axis: name of the mapped axis.
      over_time: what has an axis of time.
      others: parameters and states.
    """
    # Not over `axis` yet, since `copy_to_axis` leaves alone what varies over it already.
    over_time, others = vary((over_time, others), varying_axes((over_time, others)) - {axis})
    # In two calls: in one, the gradient of the sequence would be computed wherever that of the parameters is needed.
    return copy_to_axis(axis, over_time), copy_to_axis(axis, others)


def only_from(axis: str, device: int, tree: PyTree[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
    """Returns a tree as one device has it, and zeros on all others, so that the sum over devices is that one's.

    Args:
      axis: name of the mapped axis.
      device: the number of the device.
      tree: a pytree of arrays.
    """
    here = jax.lax.axis_index(axis) == device
    return jax.tree.map(lambda leaf: jnp.where(here, leaf, jnp.zeros_like(leaf)), tree)


def reduce_from_axis(axis: str, tree: PyTree[Shaped[Array, "..."]]) -> PyTree[Shaped[Array, "..."]]:
    """Returns the sums over the devices of an axis by one collective; each device's gradient is that of the sum.

    If every device then computes the same loss from the sums, gradients are those of that one loss, both inside
    `jax.shard_map` and inside `jax.pmap`, which would by itself add up the gradients of all devices' equal losses.

    Args:
      axis: name of the mapped axis.
      tree: a pytree of arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    sums = iter(_sum([leaf for leaf in leaves if differentiable(leaf)], axis))
    # Whole numbers have no gradient to define, so that JAX's own sum will do.
    summed = [next(sums) if differentiable(leaf) else jax.lax.psum(leaf, axis) for leaf in leaves]
    return jax.tree.unflatten(structure, summed)


def mapped_axis_size(axis: str, method: str) -> int:
    """Returns the number of devices along an axis that a method splits its work over.

    Raises:
      ValueError: if the axis is not mapped here.
    """
    try:
        return jax.lax.axis_size(axis)
    # This is how JAX says that an axis is not mapped.
    except NameError:
        raise ValueError(
            f"{method} needs a mapped axis {axis!r}; call unroll inside jax.shard_map or jax.pmap over it"
        ) from None


def tracked(axis: str) -> frozenset[str]:
    """Returns the axis if the map around tracks what varies over it, as `jax.shard_map` does; otherwise nothing."""
    # The number of a device varies over its axis, if anything is tracked at all.
    return varying_axes(jax.lax.axis_index(axis)) & {axis}


def differentiable(leaf: Any) -> bool:
    """Says whether an array's dtype has gradients."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _copy(leaves: list[Array], axis: str) -> list[Array]:
    return vary(leaves, tracked(axis))


def _copy_forward(leaves: list[Any], axis: str) -> tuple[list[Array], None]:
    return _copy([leaf.value for leaf in leaves], axis), None


def _copy_backward(axis: str, _: None, gradients: list[Any]) -> tuple[list[Any]]:
    # A gradient that is known to be zero, usually that of a long input, is not sent.
    needed = [not isinstance(gradient, SymbolicZero) for gradient in gradients]
    local = [gradient for gradient, is_needed in zip(gradients, needed) if is_needed]
    sums = iter(sum_over(axis, local) if local else [])
    return ([next(sums) if is_needed else None for is_needed in needed],)


_copy.defvjp(_copy_forward, _copy_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum(leaves: list[Array], axis: str) -> list[Array]:
    return sum_over(axis, leaves)


def _sum_forward(leaves: list[Array], axis: str) -> tuple[list[Array], None]:
    return sum_over(axis, leaves), None


def _sum_backward(axis: str, _: None, gradients: list[Array]) -> tuple[list[Array]]:
    return (vary(gradients, tracked(axis)),)


_sum.defvjp(_sum_forward, _sum_backward)
