"""A classifier of whole sequences."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rnnjax.cells.cell import Cell
from rnnjax.nn.rnn import RNN


class SequenceClassifier(nn.Module):
    """Reads a sequence with a recurrent layer and classifies it by the output of the last valid step.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      classes: number C of classes.
      dtype: compute type; logits are float32.
    """

    cell: Cell
    classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, xs: Float[Array, "B T I"], *, lengths: Int[Array, " B"] | None = None) -> Float[Array, "B C"]:
        """Returns the logits of the classes."""
        ys, _ = RNN(self.cell)(xs.astype(self.dtype), lengths=lengths)
        return nn.Dense(self.classes, dtype=self.dtype)(last_outputs(ys, lengths)).astype(jnp.float32)


def last_outputs(ys: Float[Array, "B T O"], lengths: Int[Array, " B"] | None) -> Float[Array, "B O"]:
    """Returns the output of each sequence's last valid step; zeros where it has none."""
    if lengths is None:
        return ys[:, -1]
    return jnp.take_along_axis(ys, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
