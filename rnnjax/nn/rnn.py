"""Recurrent layers as Flax Linen modules; their parameters are the cells' own."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell, Key, State
from rnnjax.unrolling.recurrence import Method
from rnnjax.unrolling.unroll import bidirectional, unroll


class RNN(nn.Module):
    """A cell unrolled over sequences, with its parameters under the name `rnn`.

    Dropout is drawn from the rng `dropout`; where none is given, or `deterministic` is true, nothing is dropped.

    Attributes:
      cell: the cell, a `Stack` for several layers.
      method, reverse, time_major: as in `rnnjax.unroll`.
    """

    cell: Cell
    method: Method | None = None
    reverse: bool = False
    time_major: bool = False

    @nn.compact
    def __call__(
        self,
        xs: Float[Array, "*B T I"],
        state: State | None = None,
        *,
        lengths: Int[Array, " *B"] | None = None,
        resets: Bool[Array, "*B T"] | None = None,
        deterministic: bool = False,
    ) -> tuple[Float[Array, "*B T O"], State]:
        """Returns the outputs and the final state, as `rnnjax.unroll` does."""
        return unroll(
            self.cell,
            self.param("rnn", self.cell.init, xs.shape[-1]),
            xs,
            state,
            lengths=lengths,
            resets=resets,
            reverse=self.reverse,
            method=self.method,
            key=dropout_key(self, deterministic),
            time_major=self.time_major,
        )


class Bidirectional(nn.Module):
    """Two cells unrolled over sequences in the two directions; parameters are under `forward` and `backward`.

    Attributes:
      forward_cell, backward_cell: the cells.
      method, time_major: as in `rnnjax.unroll`.
    """

    forward_cell: Cell
    backward_cell: Cell
    method: Method | None = None
    time_major: bool = False

    @nn.compact
    def __call__(
        self,
        xs: Float[Array, "*B T I"],
        state: tuple[State, State] | None = None,
        *,
        lengths: Int[Array, " *B"] | None = None,
        resets: Bool[Array, "*B T"] | None = None,
        deterministic: bool = False,
    ) -> tuple[Float[Array, "*B T O"], tuple[Any, Any]]:
        """Returns the outputs of both side by side and the pair of final states, as `rnnjax.bidirectional` does."""
        size = xs.shape[-1]
        params = (
            self.param("forward", self.forward_cell.init, size),
            self.param("backward", self.backward_cell.init, size),
        )
        return bidirectional(
            self.forward_cell,
            self.backward_cell,
            params,
            xs,
            state,
            lengths=lengths,
            resets=resets,
            method=self.method,
            key=dropout_key(self, deterministic),
            time_major=self.time_major,
        )


def dropout_key(module: nn.Module, deterministic: bool) -> Key:
    """Returns a module's key for dropout, None where nothing is dropped."""
    return None if deterministic or not module.has_rng("dropout") else module.make_rng("dropout")
