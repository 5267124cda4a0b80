"""Predictors of the next item of a session."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rnnjax.cells.cell import Cell
from rnnjax.models.classifier import last_outputs, scores
from rnnjax.nn.one_hot import OneHotRNN
from rnnjax.nn.rnn import RNN


class NextItem(nn.Module):
    """Reads the last items of a session, one-hot, and predicts the next by the output of the last step.

    The one-hot input times the cell's weight is a lookup.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      items: number V of items.
      dtype: compute type; logits are float32.
    """

    cell: Cell
    items: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, items: Int[Array, "B T"], *, deterministic: bool = False) -> Float[Array, "B V"]:
        """Returns the logits of the next item; an item outside ``[0, V)`` is one that is not known."""
        ys, state = OneHotRNN(self.cell, self.items, self.dtype)(items, deterministic=deterministic)
        return scores(last_outputs(self.cell, ys, state), self.items, self.dtype)


class SharedNextItem(nn.Module):
    """Predicts the next item with one vector an item, for reading it and for scoring it (Press and Wolf, 2017).

    logit_v = e_v . (W h + d) + b_v + (r_t for each place t where v was clicked);  h = cell(e of the items)

    The r are learnt: visitors go back to what they have seen. Dropout acts on the vectors that are read and on h.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      items: number V of items.
      size: numbers in a vector.
      dropout: rate, drawn from the rng `dropout` as in `rnnjax.nn.RNN`.
      dtype: compute type; logits are float32.
    """

    cell: Cell
    items: int
    size: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, items: Int[Array, "B T"], *, deterministic: bool = False) -> Float[Array, "B V"]:
        """Returns the logits of the next item; an item outside ``[0, V)`` is one that is not known."""
        embed = nn.Embed(self.items, self.size, dtype=self.dtype, embedding_init=nn.initializers.normal(0.1))
        drop = nn.Dropout(self.dropout, deterministic=deterministic or self.is_initializing())
        known = (items >= 0) & (items < self.items)
        place = jnp.where(known, items, 0)
        ys, state = RNN(self.cell)(drop(jnp.where(known[..., None], embed(place), 0)), deterministic=deterministic)
        last = drop(last_outputs(self.cell, ys, state))
        logits = embed.attend(nn.Dense(self.size, dtype=self.dtype)(last)).astype(jnp.float32)
        logits += self.param("bias", nn.initializers.zeros, (self.items,))
        again = jnp.where(known, self.param("again", nn.initializers.zeros, (items.shape[1],)), 0)
        return logits.at[jnp.arange(len(items))[:, None], place].add(again)
