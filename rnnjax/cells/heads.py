"""Gated cells whose hidden units are divided into heads that do not read each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Params
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.sizes import Size, keep_sizes
from rnnjax.cells.traits import is_gated
from rnnjax.cells.tree import given_its_inputs
from rnnjax.cells.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Heads(Wrapper):
    """A gated cell with a block-diagonal recurrence (FlashRNN; Poeppel et al., 2024).

    The H hidden units are divided into n heads of K = H / n. All heads read the same inputs, and each its own part
    ``h_k [K]`` of the hidden state, through its own block ``W_k [K, G, K]`` of the recurrent weight:

    z = x W_x + b                         W_x [I, G, H], for all heads at once
    r = [h_1 W_1, h_2 W_2, ..., h_n W_n]  side by side on the axis of hidden units, [G, H]
    h' = gates(z, r)                      as the wrapped cell has them, unit by unit

    These are n cells of K units, their states and outputs concatenated, with 1 / n of the recurrent weight and of its
    product's operations. Parameters are those of the wrapped cell but for ``w_h [n, K, G, K]``; each head is
    initialised as a cell of K units by itself. A parameter without an axis of hidden units is shared by all heads. The
    state is that of the wrapped cell, H wide, and so is the recurrence: every method that runs the cell runs it in
    blocks, but for `CuDNN`.

    Attributes:
      n: number of heads, which must divide the cell's `hidden_size`.

    Raises:
      TypeError: for a cell that is not gated; from `init`, for one whose recurrent weight is not its parameter ``w_h``.
      ValueError: for a number that does not divide `hidden_size`, or a cell whose gates mix hidden units.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Heads(rnnjax.LSTM(8), 2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> params.w_x.shape, params.w_h.shape
      ((3, 4, 8), (2, 4, 4, 4))
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 8))
    """

    n: int

    def __post_init__(self):
        super().__post_init__()
        keep_sizes(self, "n")
        cell = given_its_inputs(self.cell)
        if not is_gated(cell):
            raise TypeError(
                f"Heads divides the hidden units of a gated cell, such as LSTM(128), got {cell!r}; "
                "put Heads right around each gated cell, inside of other wrappers"
            )
        if not cell.pointwise:
            raise ValueError(
                f"Heads keeps the units of one head from those of another, and the gates of {cell!r} mix them; "
                "take a cell whose gates are pointwise, without a projection, a normalisation or a product in them"
            )
        if cell.hidden_size % self.n:
            raise ValueError(f"the number of heads must divide hidden_size={cell.hidden_size}, got n={self.n}")

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        cell: Any = self.cell
        head = dataclasses.replace(cell, hidden_size=cell.hidden_size // self.n)
        drawn = jax.vmap(lambda key: head.init(key, input_size))(jax.random.split(key, self.n))
        _check_weight(cell, drawn)
        whole = jax.eval_shape(lambda key: cell.init(key, input_size), key)
        rest = jax.tree.map(_side_by_side, drawn._replace(w_h=None), whole._replace(w_h=None))
        return rest._replace(w_h=drawn.w_h)

    def inner(self, params: Params) -> Params:
        """Returns the parameters, which the wrapped cell runs with though its own have no blocks."""
        return params


def _check_weight(cell: GatedCell, params: Params) -> None:
    """Raises unless the recurrent weight of a cell is its parameter w_h as it stands."""
    if not hasattr(params, "w_h") or cell.recurrent_weight(params) is not params.w_h:
        raise TypeError(
            "Heads puts blocks in the place of the parameter w_h, which must be the recurrent weight as it is, "
            f"and {cell!r} has another; have its recurrent_weight return params.w_h"
        )


def _side_by_side(heads: Array, whole: jax.ShapeDtypeStruct) -> Array:
    """Returns ``heads [N, ..., K]`` as ``[..., N * K]``, the shape of `whole`; where that is not its shape, the first.

    A parameter has the shape of a single head's if it has no axis of hidden units.
    """
    if heads.shape[1:] == whole.shape:
        return heads[0]
    return jnp.moveaxis(heads, 0, -2).reshape(whole.shape)
