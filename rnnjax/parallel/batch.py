"""A batch split over devices."""

from __future__ import annotations

from typing import Any

import jax
from jax.flatten_util import ravel_pytree


def sum_over(axis: str, tree: Any) -> Any:
    """Returns the sums of the leaves over a mapped axis, by one collective for all of them.

    XLA's CPU devices share a pool with as many threads as there are cores, and a collective holds a thread until all
    devices have come to it: with several under way at once there may be no thread left for the device that is late.
    """
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(flat, axis))
