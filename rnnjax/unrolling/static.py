"""Unrolling by a Python loop."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import State
from rnnjax.unrolling.recurrence import Method, Recurrence


@dataclasses.dataclass(frozen=True)
class Static(Method):
    """T copies of the step in the program, for short sequences: time to compile grows with T.

    Raises:
      ValueError: when it runs, for a length that is a symbol.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.BasicRNN(4)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 3, 3)), method=rnnjax.Static())
      >>> ys.shape
      (2, 3, 4)
    """

    keeps_states: ClassVar[bool] = True

    def why_not(self, recurrence: Recurrence) -> str | None:
        if isinstance(recurrence.length, int):
            return None
        return f"Static() makes a program of a number of steps that is known, got {recurrence.length}; use Scan()"

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        state, ys = recurrence.state, []
        for t in range(recurrence.length):
            state, y = recurrence.step(state, jax.tree.map(lambda leaf, t=t: leaf[t], recurrence.steps))
            ys.append(y)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys), state
