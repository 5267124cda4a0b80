"""Values that are equal on every device of a mapped axis: as copies of each device's own, and as sums of them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from rnnjax.parallel.batch import sum_over
from rnnjax.unrolling.varying import vary, varying_axes


def enter(axis: str, tree: Any) -> Any:
    """Returns a tree that is equal on every device of an axis as copies that each device may use in its own way.

    The gradient is the sum of those of the copies, on every device, by one collective for all leaves. That is what
    `jax.shard_map` does by itself, a collective a leaf, where it keeps account of what varies; inside `jax.pmap`
    nothing does it. A leaf that varies over the axis already is the device's own copy, and is left alone.
    """
    leaves, structure = jax.tree.flatten(tree)
    shared = [differentiable(leaf) and axis not in varying_axes(leaf) for leaf in leaves]
    copies = iter(_copies(axis, [leaf for leaf, is_shared in zip(leaves, shared) if is_shared]))
    found = [next(copies) if is_shared else vary(leaf, tracked(axis)) for leaf, is_shared in zip(leaves, shared)]
    return jax.tree.unflatten(structure, found)


def leave(axis: str, tree: Any) -> Any:
    """Returns the sums over the devices of an axis, each device's gradient being that of the sum, by one collective.

    So where every device goes on to compute the same loss from the sums, gradients are those of that one loss, inside
    `jax.shard_map` and inside `jax.pmap`, which by itself would add up the devices' equal losses.
    """
    leaves, structure = jax.tree.flatten(tree)
    sums = iter(_sums(axis, [leaf for leaf in leaves if differentiable(leaf)]))
    found = [next(sums) if differentiable(leaf) else jax.lax.psum(leaf, axis) for leaf in leaves]
    return jax.tree.unflatten(structure, found)


def tracked(axis: str) -> frozenset[str]:
    """Returns the axis where the map keeps account of what varies over it, as `jax.shard_map` does, else nothing."""
    return varying_axes(jax.lax.axis_index(axis)) & {axis}


def differentiable(leaf: Any) -> bool:
    """Says whether an array's type has gradients."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _copies(axis: str, leaves: list[Array]) -> list[Array]:
    return vary(leaves, tracked(axis))


def _copies_forward(axis: str, leaves: list[Any]) -> tuple[list[Array], None]:
    return _copies(axis, [leaf.value for leaf in leaves]), None


def _copies_backward(axis: str, _: None, gradients: list[Any]) -> tuple[list[Any]]:
    """What has no gradient is not sent: a long input, as a rule."""
    there = [not isinstance(gradient, SymbolicZero) for gradient in gradients]
    sent = [gradient for gradient, is_there in zip(gradients, there) if is_there]
    sums = iter(sum_over(axis, sent) if sent else [])
    return ([next(sums) if is_there else None for is_there in there],)


_copies.defvjp(_copies_forward, _copies_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(axis: str, leaves: list[Array]) -> list[Array]:
    return sum_over(axis, leaves)


_sums.defvjp(
    lambda axis, leaves: (sum_over(axis, leaves), None),
    lambda axis, _, gradients: (vary(gradients, tracked(axis)),),
)
