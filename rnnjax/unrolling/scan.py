"""Unrolling by `lax.scan`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
from jaxtyping import Array

from rnnjax.cells.cell import State
from rnnjax.cells.sizes import keep_sizes
from rnnjax.unrolling.pieces import in_pieces, why_not_in_pieces
from rnnjax.unrolling.recurrence import Method, Recurrence


@dataclasses.dataclass(frozen=True)
class Scan(Method):
    """One copy of the step in the program, repeated by `lax.scan`: any cell, any length.

    Attributes:
      unroll: copies of the step in the loop's body.
      remat_every: if given, the forward pass stores the state only every so many steps, and the backward pass computes
        the steps between again, one chunk at a time. With about sqrt(T), stored states grow like sqrt(T) (Chen et al.,
        2016). Still of size T: the inputs; the outputs, if something reads them all, such as a layer above (the last
        output is in the final state too); and z, if a cell computes it by more than a product and a bias.

    Raises:
      ValueError: for numbers below 1; when it runs, for `remat_every` and a length that is a symbol.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> method = rnnjax.Scan(remat_every=10)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 100, 3)), method=method)
      >>> ys.shape
      (2, 100, 8)
    """

    keeps_states: ClassVar[bool] = True

    unroll: int = 1
    remat_every: int | None = None

    def __post_init__(self):
        keep_sizes(self, "unroll", optional=("remat_every",))

    def why_not(self, recurrence: Recurrence) -> str | None:
        return why_not_in_pieces(recurrence, self.remat_every)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        return in_pieces(recurrence, self.remat_every, self._steps)

    def _steps(self, recurrence: Recurrence) -> tuple[Array, State]:
        state, ys = jax.lax.scan(recurrence.step, recurrence.state, recurrence.steps, unroll=self.unroll)
        return ys, state
