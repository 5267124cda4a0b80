"""Unrolling by `lax.scan`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import State
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import adds_a_bias
from rnnjax.unrolling.recurrence import Method, Recurrence, Steps


@dataclasses.dataclass(frozen=True)
class Scan(Method):
    """One copy of the step in the program, repeated by `lax.scan`: any cell, any length.

    Attributes:
      unroll: copies of the step in the loop's body.
      remat_every: if given, the gradient keeps a state every so many steps, and on the way back makes what lies
        between again, a chunk at a time: with about sqrt(T), what is kept grows like sqrt(T) (Chen et al., 2016).
        What grows like T all the same: inputs, and outputs where they are read, a layer above included (the last
        one is in the final state as well); and z where a cell makes it by more than a product and a bias.

    Raises:
      ValueError: for numbers below 1.
    """

    keeps_states: ClassVar[bool] = True

    unroll: int = 1
    remat_every: int | None = None

    def __post_init__(self):
        keep_sizes(self, "unroll", optional=("remat_every",))

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        every, length = self.remat_every, recurrence.length
        if every is None or every >= length:
            return self._steps(recurrence, recurrence.state, recurrence.steps, None)
        steps, xs = recurrence.steps, None
        if adds_a_bias(recurrence.cell, recurrence.params, recurrence.xs):
            # z of all steps, and its gradient, are then never there at once.
            steps, xs = steps._replace(z=None), recurrence.xs
        whole = length - length % every
        ys, state = self._chunks(recurrence, *jax.tree.map(lambda leaf: leaf[:whole], (steps, xs)))
        if whole == length:
            return ys, state
        last, state = self._steps(recurrence, state, *jax.tree.map(lambda leaf: leaf[whole:], (steps, xs)))
        return jax.tree.map(lambda *both: jnp.concatenate(both), ys, last), state

    def _steps(self, recurrence: Recurrence, state: State, steps: Steps, xs: Array | None) -> tuple[Array, State]:
        """Returns the outputs and the last state of some steps, whose z is made from `xs` where those are given."""
        if xs is not None:
            steps = steps._replace(z=recurrence.cell.inputs(recurrence.params, xs))
        state, ys = jax.lax.scan(recurrence.step, state, steps, unroll=self.unroll)
        return ys, state

    def _chunks(self, recurrence: Recurrence, steps: Steps, xs: Array | None) -> tuple[Array, State]:
        """Returns the same for a length that `remat_every` divides, with only the states between chunks kept."""

        @jax.checkpoint
        def chunk(state: State, piece: tuple[Steps, Array | None]) -> tuple[State, Array]:
            ys, state = self._steps(recurrence, state, *piece)
            return state, ys

        pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, self.remat_every, *leaf.shape[1:]), (steps, xs))
        state, ys = jax.lax.scan(chunk, recurrence.state, pieces)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys), state
