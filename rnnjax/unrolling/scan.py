"""Unrolling by `lax.scan`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import State, check_size
from rnnjax.unrolling.recurrence import Recurrence, Steps


@dataclasses.dataclass(frozen=True)
class Scan:
    """One copy of the step in the program, repeated by `lax.scan`: any cell, any length.

    Attributes:
      unroll: copies of the step in the loop's body.
      remat_every: if given, only every so many states are kept for the gradient and the steps between are taken
        again on the way back; with about sqrt(T), so does what is kept of them grow (Chen et al., 2016).

    Raises:
      ValueError: for numbers below 1.
    """

    unroll: int = 1
    remat_every: int | None = None

    def __post_init__(self):
        check_size("unroll", self.unroll)
        if self.remat_every is not None:
            check_size("remat_every", self.remat_every)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        every, length = self.remat_every, recurrence.length
        if every is None or every >= length:
            return self._steps(recurrence, recurrence.state, recurrence.steps)
        whole = length - length % every
        ys, state = self._chunks(recurrence, jax.tree.map(lambda leaf: leaf[:whole], recurrence.steps))
        if whole == length:
            return ys, state
        rest = jax.tree.map(lambda leaf: leaf[whole:], recurrence.steps)
        last, state = self._steps(recurrence, state, rest)
        return jnp.concatenate([ys, last]), state

    def _steps(self, recurrence: Recurrence, state: State, steps: Steps) -> tuple[Array, State]:
        state, ys = jax.lax.scan(recurrence.step, state, steps, unroll=self.unroll)
        return ys, state

    def _chunks(self, recurrence: Recurrence, steps: Steps) -> tuple[Array, State]:
        """Returns the same for a length that `remat_every` divides, with only the states between chunks kept."""

        @jax.checkpoint
        def chunk(state: State, steps: Steps) -> tuple[State, Array]:
            ys, state = self._steps(recurrence, state, steps)
            return state, ys

        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, self.remat_every, *leaf.shape[1:]), steps)
        state, ys = jax.lax.scan(chunk, recurrence.state, chunks)
        return ys.reshape(-1, *ys.shape[2:]), state
