"""Some of many steps in one compiled program, which does not know how many when it is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.training.batches import Order
from rnnjax.unrolling.varying import vary

Count = int | Array  # a number of steps: a plain one is compiled into the program
_FEWEST = 8  # batches for which a program is compiled that takes them from the host


def some_steps(
    one: Callable[[Any, Any], tuple[Any, Any]], carry: Any, items: Any, first: Count, count: Count, most: int
) -> tuple[Any, Any]:
    """Returns what `jax.lax.scan` does over ``items[first : first + count]``: the carry, and what each step gives.

    That is ``[most, ...]``, zeros from `count` on. One program serves all calls, and each step is computed alike in
    all of them, so it does not matter to the results where one call ends and the next begins.
    """

    def item(at: Count) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, at, keepdims=False), items)

    def step(number: Array, both: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, given = both
        carry, gives = one(carry, item(first + number))
        return carry, jax.tree.map(lambda into, new: into.at[number].set(new), given, gives)

    shapes = jax.eval_shape(lambda carry: one(carry, item(first))[1], carry)
    nothing = jax.tree.map(functools.partial(_zeros, most), shapes)
    return jax.lax.fori_loop(0, count, step, (carry, nothing))


def _zeros(most: int, like: jax.ShapeDtypeStruct) -> Array:
    """Returns zeros ``[most, ...]`` that vary over the devices as one of their entries does."""
    zeros, axes = jnp.zeros((most, *like.shape), like.dtype), like.manual_axis_type
    return zeros if axes is None else vary(zeros, axes.varying)


def window(order: Order, first: int, count: int, most: int, axis: int = 0) -> Order:
    """Returns the batches of a call that the host sends, filled up by its last to a number that few programs serve.

    These are powers of two and `most`, the most that a call has. `axis` is that of the steps.
    """
    size = min(most, max(_FEWEST, 1 << (count - 1).bit_length()))
    which = np.minimum(np.arange(first, first + size), first + count - 1)
    return jax.tree.map(lambda leaf: np.take(np.asarray(leaf), which, axis), order)


def best_sent(count: int, most: int) -> int:
    """Returns how many of `count` batches are best sent by the host for a call, so that none is sent to fill it up."""
    return count if count >= most else 1 << (count.bit_length() - 1)
