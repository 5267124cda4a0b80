"""A model that answers at every step of a sequence of symbols, or of numbers."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell
from rnnjax.nn.rnn import RNN


class SequenceLabeller(nn.Module):
    """Reads a sequence with a recurrent layer, and computes `size` numbers at every step from the layer's output.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      size: number O of numbers, such as the logits of the answers.
      symbols: number V of symbols, which the cell reads as one-hot vectors; 0 where inputs are numbers.
      embedding: if positive, the features of an embedding that the cell reads in place of one-hot vectors.
      dtype: type of the computation; the numbers are float32.
    """

    cell: Cell
    size: int
    symbols: int = 0
    embedding: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: Int[Array, "B T"] | Float[Array, "B T I"],
        *,
        lengths: Int[Array, " B"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
        deterministic: bool = False,
    ) -> Float[Array, "B T O"]:
        """Returns the numbers of every step; dropout is as in `rnnjax.nn.RNN`.

        Args:
          inputs: symbols, or numbers.
          lengths: steps of each sequence; None: all.
          mask: which steps there are; None: all, up to the lengths.
          deterministic: whether nothing is dropped.
        """
        options = {"lengths": lengths, "mask": mask, "deterministic": deterministic}
        ys, _ = RNN(self.cell)(self._read(inputs), **options)
        return nn.Dense(self.size, dtype=self.dtype)(ys).astype(jnp.float32)

    def _read(self, inputs: Int[Array, "B T"] | Float[Array, "B T I"]) -> Float[Array, "B T F"]:
        if not self.symbols:
            return inputs.astype(self.dtype)
        if not self.embedding:
            return jax.nn.one_hot(inputs, self.symbols, dtype=self.dtype)
        return nn.Embed(self.symbols, self.embedding, dtype=self.dtype)(inputs)
