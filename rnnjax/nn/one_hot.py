"""Recurrent layers over one-hot inputs that are never made: their product with the input weight is a lookup."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.projected import projected
from rnnjax.nn.rnn import unrolled
from rnnjax.unrolling.recurrence import Method
from rnnjax.unrolling.sequences import unroll


def lookup(weight: Float[Array, "I G H"], ids: Integer[Array, "*B"], dtype: DTypeLike) -> Float[Array, "*B G H"]:
    """Returns ``one_hot(ids) @ weight``: a row an id, and zeros for an id outside ``[0, I)``, in `dtype`."""
    weight = jnp.asarray(weight)  # parameters on the host cannot be indexed by traced ids
    # A number of ids that a narrow type cannot hold would wrap around: 256 is 0 in uint8.
    ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids
    known = (ids >= 0) & (ids < len(weight))
    rows = weight[jnp.where(known, ids, 0)].astype(dtype)
    return jnp.where(known[..., None, None], rows, 0)


def unroll_one_hot(
    cell: Cell,
    params: Params,
    ids: Integer[Array, "*B T"],
    state: State | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> tuple[Float[Array, "*B T O"], State]:
    """Returns what ``rnnjax.unroll(cell, params, one_hot(ids), ...)`` does, in values and gradients, by a lookup.

    The product of B x T one-hot inputs of size I with the input weight costs as much as I rows each; the lookup
    costs one row each.

    Args:
      cell: a gated cell, or one that `rnnjax.cells.projected.projected` can take apart.
      params: its parameters, as `cell.init` makes them for inputs of size I.
      ids: whole numbers ``[*batch, T]``, or ``[T, *batch]`` with `time_major`; one outside ``[0, I)`` is an input of
        zeros.
      state: the state before the first step.
      dtype: compute type, that of the one-hot inputs.
      **options: as in `rnnjax.unroll`.

    Raises:
      TypeError: if the ids are not whole numbers; otherwise as `projected` and `rnnjax.unroll`.
    """
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"ids must be whole numbers, got {ids.dtype}")
    inner, w_x = projected(cell, params)
    zs = lookup(w_x, ids, dtype)
    return unroll(inner, params, jnp.reshape(zs, (*ids.shape, zs.shape[-2] * zs.shape[-1])), state, **options)


class OneHotRNN(nn.Module):
    """`rnnjax.nn.RNN` for inputs that are one-hot, given as ids; the same parameters, under the same name `rnn`.

    Attributes:
      cell: the cell, as in `unroll_one_hot`.
      size: number I of ids.
      dtype: compute type.
      method, reverse, time_major: as in `rnnjax.unroll`.
      deterministic: as in `RNN`.
    """

    cell: Cell
    size: int
    dtype: DTypeLike = jnp.float32
    method: Method | None = None
    reverse: bool = False
    time_major: bool = False
    deterministic: bool = False

    @nn.compact
    def __call__(
        self, ids: Integer[Array, "*B T"], *, state: State | None = None, **options: Any
    ) -> tuple[Float[Array, "*B T O"], State]:
        """Returns the outputs and the final state, as `unroll_one_hot` does; options are those of a call of `RNN`."""
        return unrolled(self, functools.partial(unroll_one_hot, dtype=self.dtype), self.size, ids, state, **options)
