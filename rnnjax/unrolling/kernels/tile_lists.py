"""Lists of tiles inside a kernel, added up, or one or another for each entry."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from rnnjax.unrolling.kernels.pointwise import Tiles


def select(mask: Float[Array, "rows units"], yes: Tiles, no: Tiles) -> Tiles:
    """Returns the tiles of `yes` where the mask is not zero, of `no` elsewhere."""
    return [jax.lax.select(mask != 0, a, b) for a, b in zip(yes, no)]


def sums(xs: Tiles, ys: Tiles) -> Tiles:
    """Returns the sums of tiles, pair by pair."""
    return [x + y for x, y in zip(xs, ys)]


def zero_where_unused(
    gradients: list[Tiles], d_new: Tiles, followed: Float[Array, "rows units"], lost: Float[Array, "rows units"]
) -> list[Tiles]:
    """Returns gradients that are zero where a step is lost, or a reset follows and nothing comes back to the step.

    They are zero times the derivative of the gates, which is NaN where these overflow.

    Args:
      gradients: what the gates' derivative gives.
      d_new: what it is given, the gradients of the new state.
      followed: one where a reset follows at some time, zero elsewhere.
      lost: one where the step is known to be lost to a reset.
    """
    one, zero = (jax.lax.full(followed.shape, x, followed.dtype) for x in (1, 0))
    used = one - followed
    for tile in d_new:
        used += jax.lax.select(tile != 0, one, zero)
    used *= one - lost
    return [select(used, tiles, [jax.lax.full(tile.shape, 0, tile.dtype) for tile in tiles]) for tiles in gradients]
