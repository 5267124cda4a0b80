"""A classifier of whole sequences."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell, State
from rnnjax.cells.traits import outputs_its_state
from rnnjax.cells.tree import is_stack, last_with_state
from rnnjax.nn.rnn import RNN


class SequenceClassifier(nn.Module):
    """Reads a sequence with a recurrent layer and classifies it by the output of the last valid step.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      classes: number C of classes.
      dtype: compute type; logits are float32.
      pooled: whether the mean of the outputs of all valid steps is classified, not the last.
    """

    cell: Cell
    classes: int
    dtype: DTypeLike = jnp.float32
    pooled: bool = False

    @nn.compact
    def __call__(
        self,
        xs: Float[Array, "B T I"],
        *,
        lengths: Int[Array, " B"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
        deterministic: bool = False,
    ) -> Float[Array, "B C"]:
        """Returns the logits of the classes; dropout is as in `rnnjax.nn.RNN`.

        Args:
          xs: the sequences.
          lengths: steps of each sequence; None: all.
          mask: which steps there are; None: all, up to the lengths.
          deterministic: whether nothing is dropped.
        """
        options = {"lengths": lengths, "mask": mask, "deterministic": deterministic}
        ys, state = RNN(self.cell)(xs.astype(self.dtype), **options)
        if mask is not None:
            valid = valid_steps(mask, lengths)
            features = masked_mean(ys, valid) if self.pooled else last_of_mask(self.cell, ys, state, valid)
        else:
            features = mean_outputs(ys, lengths) if self.pooled else last_outputs(self.cell, ys, state, lengths)
        return scores(features, self.classes, self.dtype)


def valid_steps(mask: Bool[Array, "B T"], lengths: Int[Array, " B"] | None) -> Bool[Array, "B T"]:
    """Returns which steps are neither missing nor past a sequence's end."""
    return mask if lengths is None else mask & (jnp.arange(mask.shape[1]) < lengths[:, None])


def masked_mean(ys: Float[Array, "B T O"], valid: Bool[Array, "B T"]) -> Float[Array, "B O"]:
    """Returns the mean of each sequence's outputs at valid steps, of which the others are zero; zeros without any."""
    return ys.sum(1) / jnp.maximum(valid.sum(1), 1)[:, None].astype(ys.dtype)


def last_of_mask(cell: Cell, ys: Float[Array, "B T O"], state: State, valid: Bool[Array, "B T"]) -> Float[Array, "B O"]:
    """Returns the output of each sequence's last valid step, as `last_outputs`, where any steps may be missing.

    Args:
      cell: the cell.
      ys: its outputs.
      state: its final state, each leaf ``[B, ...]``.
      valid: which steps there are.
    """
    # Behind the last valid step nothing is read, so that what lies before it is a prefix.
    ends = jnp.where(valid, jnp.arange(1, valid.shape[1] + 1), 0).max(1)
    return last_outputs(cell, ys, state, ends)


def scores(features: Float[Array, "B O"], classes: int, dtype: DTypeLike) -> Float[Array, "B C"]:
    """Returns the float32 logits of classes by a dense layer of the module that calls it, which computes in `dtype`."""
    return nn.Dense(classes, dtype=dtype)(features).astype(jnp.float32)


def mean_outputs(ys: Float[Array, "B T O"], lengths: Int[Array, " B"] | None = None) -> Float[Array, "B O"]:
    """Returns the mean of each sequence's outputs at valid steps, of which the others are zero; zeros without any."""
    if lengths is None:
        return ys.mean(1)
    return ys.sum(1) / jnp.maximum(lengths, 1)[:, None].astype(ys.dtype)


def last_outputs(
    cell: Cell, ys: Float[Array, "B T O"], state: State, lengths: Int[Array, " B"] | None = None
) -> Float[Array, "B O"]:
    """Returns the output of each sequence's last valid step; zeros where it has none.

    It is read off the final state where that has it, so that no step's output need be kept for it.

    Args:
      cell: the cell.
      ys: its outputs.
      state: its final state, each leaf ``[B, ...]``.
      lengths: valid steps of each sequence; None: all.
    """
    last = _hidden(cell, state)
    if lengths is None:
        return ys[:, -1] if last is None else last.astype(ys.dtype)
    if last is not None:
        return jnp.where(lengths[:, None] > 0, last, 0).astype(ys.dtype)
    return jnp.take_along_axis(ys, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]


def _hidden(cell: Cell, state: State) -> Float[Array, "B O"] | None:
    """Returns the hidden state of a cell whose outputs it is, else None."""
    last, last_state = last_with_state(cell, state, is_stack)
    return last_state.h if outputs_its_state(last) else None
