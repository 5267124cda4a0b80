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
      remat_every: if given, the forward pass stores the state only every so many steps, and the backward pass computes
        the steps between again, one chunk at a time. With about sqrt(T), stored states grow like sqrt(T) (Chen et al.,
        2016). Still of size T: the inputs; the outputs, if something reads them all, such as a layer above (the last
        output is in the final state too); and z, if a cell computes it by more than a product and a bias.

    Raises:
      ValueError: for numbers below 1.

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

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        every, length = self.remat_every, recurrence.length
        if every is None or every >= length:
            return self._steps(recurrence, recurrence.state, recurrence.steps, None)
        steps, xs = recurrence.steps, None
        if adds_a_bias(recurrence.cell, recurrence.params, recurrence.xs):
            # Each chunk computes its own z, so that z of all steps, or its gradient, is never in memory at once.
            steps, xs = steps._replace(z=None), recurrence.xs
        # The steps left over make one shorter chunk, which is run after the loop; it stores fewer than `every` states.
        in_chunks = length - length % every
        steps_in_chunks, xs_in_chunks = jax.tree.map(lambda leaf: leaf[:in_chunks], (steps, xs))
        ys, state = self._chunks(recurrence, steps_in_chunks, xs_in_chunks)
        if in_chunks == length:
            return ys, state
        last_steps, last_xs = jax.tree.map(lambda leaf: leaf[in_chunks:], (steps, xs))
        last_ys, state = self._steps(recurrence, state, last_steps, last_xs)
        # A tree, since with `keeps_states` there is a state beside each output.
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, last_ys), state

    def _steps(self, recurrence: Recurrence, state: State, steps: Steps, xs: Array | None) -> tuple[Array, State]:
        """Returns the outputs and the last state of some steps; z is computed from `xs` if they are given."""
        if xs is not None:
            # Inside the checkpoint of `_chunks`, so that z is made again on the way back, not stored.
            steps = steps._replace(z=recurrence.cell.inputs(recurrence.params, xs))
        state, ys = jax.lax.scan(recurrence.step, state, steps, unroll=self.unroll)
        return ys, state

    def _chunks(self, recurrence: Recurrence, steps: Steps, xs: Array | None) -> tuple[Array, State]:
        """Returns the same for a length that `remat_every` divides, storing only the states between chunks."""

        @jax.checkpoint
        def chunk(state: State, piece: tuple[Steps, Array | None]) -> tuple[State, Array]:
            ys, state = self._steps(recurrence, state, *piece)
            return state, ys

        # [T, ...] as [chunks, remat_every, ...]; the outputs come back in the same form.
        pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, self.remat_every, *leaf.shape[1:]), (steps, xs))
        state, ys = jax.lax.scan(chunk, recurrence.state, pieces)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys), state
