"""A number of steps in one compiled program, a number that is not known when the program is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rnnjax.training.batches import Order
from rnnjax.unrolling.varying import vary

Count = int | Int[Array, ""]  # of steps; a Python int is compiled into the program
_FEWEST_BATCHES = 8  # that a call is padded to when the host sends them


def some_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, items: Any, first: Count, count: Count, most: int
) -> tuple[Any, Any]:
    """Does what `jax.lax.scan` does over ``items[first : first + count]``.

    One program serves all calls, and computes a step in the same way in all of them, so that results do not depend on
    where one call ends and the next begins.

    Args:
      step: ``step(carry, item) -> (carry, output)``.
      carry: before the first step.
      items: a pytree of arrays ``[N, ...]``.
      first: number of the first item.
      count: number of steps.
      most: number that `count` never exceeds.

    Returns:
      the carry after the last step, and the outputs ``[most, ...]`` of the steps, zeros from `count` on.
    """

    def item(number: Count) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), items)

    def body(number: Array, loop_state: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, outputs = loop_state
        carry, output = step(carry, item(first + number))
        return carry, jax.tree.map(lambda stacked, new: stacked.at[number].set(new), outputs, output)

    shapes = jax.eval_shape(lambda carry: step(carry, item(first))[1], carry)
    zeros = jax.tree.map(functools.partial(_zeros, most), shapes)
    return jax.lax.fori_loop(0, count, body, (carry, zeros))


def _zeros(most: int, like: jax.ShapeDtypeStruct) -> Array:
    """Returns zeros ``[most, ...]`` that vary over the same mesh axes as the array that `like` describes."""
    zeros = jnp.zeros((most, *like.shape), like.dtype)
    axes = like.manual_axis_type
    return zeros if axes is None else vary(zeros, axes.varying)


def window(order: Order, first: int, count: int, most: int, axis: int = 0) -> Order:
    """Returns the batches of a call that the host sends, padded with the last one.

    They are padded to a power of two, or to `most`, so that few programs are compiled.

    Args:
      order: the batches of an epoch.
      first: number of the first batch of the call.
      count: number of batches of the call.
      most: number that `count` never exceeds.
      axis: the axis of the steps in the order.
    """
    size = min(most, max(_FEWEST_BATCHES, 1 << (count - 1).bit_length()))
    steps = np.minimum(np.arange(first, first + size), first + count - 1)
    return jax.tree.map(lambda leaf: np.take(np.asarray(leaf), steps, axis), order)


def best_sent(count: int, most: int) -> int:
    """Returns how many of `count` batches the host should send for a call, so that none of them is padding."""
    return count if count >= most else 1 << (count.bit_length() - 1)
