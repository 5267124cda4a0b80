"""Unrolling of nonlinear cells by Newton's method: the states of all steps are one system of equations."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from rnnjax.cells.cell import State
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import keeps_units_apart
from rnnjax.unrolling.chunks import WHOLE, Chunks
from rnnjax.unrolling.instead import why_not_closed_over, why_not_together
from rnnjax.unrolling.newton_layout import Blocks, Layout, are_exact, exact_blocks
from rnnjax.unrolling.newton_states import NewtonReport, Solver, all_states
from rnnjax.unrolling.own_units import steps_read_others
from rnnjax.unrolling.prefixes import shifted
from rnnjax.unrolling.recurrence import Method, Recurrence

_MOST_MIB = 256  # of the Jacobians of all steps, of which a few copies are made


@dataclasses.dataclass(frozen=True)
class Newton(Method):
    """All steps at once: Newton's method on the equations s_t = step(s_{t-1}, z_t) of all t.

    An iteration takes every step from the states of the one before, with its Jacobian J_t, and solves one linear
    recurrence for the corrections, d_t = J_t d_{t-1} + r_t, where r_t = step(s_{t-1}, z_t) - s_t (Lim et al., 2024,
    "Parallelizing non-linear sequential models over the sequence length"; Gonzalez et al., 2024; Danieli et al., 2025,
    "ParaRNN"). After k iterations the first k steps are right whatever the cell; cells that forget converge in few.

    The result is that of `Scan`. Where a residual r_t is too large after the last iteration, or not finite, all steps
    are taken one after another, with the values of `Scan` bit by bit; `newton_report` tells. Gradients are those of the
    implicit function theorem, exact whatever the iterations did: one linear recurrence, backward in time. It is solved
    at once where the Jacobians are exact, and step by step where they are not.

    Attributes:
      jacobian: "diagonal", the derivative of each number of the state by itself; "block", by all numbers of its unit,
        such as an LSTM's h and c; "dense", by the whole state, for small ones; "auto": the smallest of these that is
        exact, the first or second for a `DiagonalCell` or a `LinearCell`, "dense" for others. With one that leaves
        something out, more iterations are needed (quasi-Newton).
      tolerance: the largest residual, as a share of the largest number of its array of the state in that step and
        sequence; where units do not read each other, one beyond 1 counts as 1 for the others. None: 32 times the
        spacing of the state's floating-point numbers at 1; for 16-bit numbers 2 times, as 32 times would be a quarter
        of the state.
      iterations: the most iterations; if residuals are too large then, steps are taken one after another.
      damping: share, in [0, 1], by which Jacobians are reduced; more iterations, which are less apt to overflow. At 1
        these are fixed-point iterations.

    Raises:
      ValueError: for options out of range; when it runs, for whole Jacobians above 256 MiB, a state that is not of
        floating-point numbers, or "block" for a state whose arrays differ in shape.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.ParaGRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 100, 3)), method=rnnjax.Newton())
      >>> ys.shape, state.h.shape
      ((2, 100, 8), (2, 8))
    """

    keeps_states: ClassVar[bool] = True

    jacobian: Blocks | str = "auto"
    tolerance: float | None = None
    iterations: int = 20
    damping: float = 0.0

    def __post_init__(self):
        keep_sizes(self, "iterations")
        if self.jacobian not in ("auto", "diagonal", "block", "dense"):
            raise ValueError(f'jacobian must be "auto", "diagonal", "block" or "dense", got {self.jacobian!r}')
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, or None for that of the state's type, got {self.tolerance}")
        if not 0 <= self.damping <= 1:
            raise ValueError(f"damping must be in [0, 1], got {self.damping}")

    def why_not(self, recurrence: Recurrence) -> str | None:
        name, leaves = type(recurrence.cell).__name__, jax.tree.leaves(recurrence.state)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            types = ", ".join(str(leaf.dtype) for leaf in leaves)
            return f"Newton() takes states of floating-point numbers, and that of {name} has {types}; use Scan()"
        shapes = [leaf.shape for leaf in leaves]
        if self.jacobian == "block" and len(set(shapes)) > 1:
            return (
                f'Newton(jacobian="block") takes states whose arrays have one shape, and those of {name} have '
                f'{" and ".join(str(list(shape)) for shape in shapes)}; use jacobian="diagonal" or "dense"'
            )
        return self._too_large(recurrence) or why_not_closed_over(self, recurrence) or self._reads_others(recurrence)

    def _too_large(self, recurrence: Recurrence) -> str | None:
        """Returns a sentence if the Jacobians of all steps take too much memory."""
        layout = self._layout(recurrence)
        width, steps = layout.width, (recurrence.length, *layout.batch)
        if layout.blocks != "dense" or not all(isinstance(size, int) for size in steps):
            return None
        size = layout.dtype.itemsize * width**2
        for axis in steps:
            size *= axis
        if size <= _MOST_MIB * 2**20:
            return None
        return (
            f"Newton() would keep {width} x {width} derivatives for each of {' x '.join(map(str, steps))} steps of "
            f"{type(recurrence.cell).__name__}, {size / 2**20:.0f} MiB, above the limit of {_MOST_MIB}; "
            'use Scan(), or Newton(jacobian="diagonal"), which takes more iterations'
        )

    def _reads_others(self, recurrence: Recurrence) -> str | None:
        """Returns a sentence if what is taken by itself reads something else: the derivative would be wrong."""
        together = why_not_together(self, recurrence) if keeps_units_apart(recurrence.cell) else None
        by_unit = exact_blocks(recurrence.cell, recurrence.state) != "dense"
        if together is not None or not steps_read_others(recurrence, by_unit=by_unit):
            return together
        name = type(recurrence.cell).__name__
        parts = "hidden unit of each sequence" if by_unit else "sequence"
        return (
            f"Newton() takes each {parts} by itself, and a step of {name} gives other numbers then than for all at "
            "once; use Scan()"
        )

    def _layout(self, recurrence: Recurrence) -> Layout:
        cell, state = recurrence.cell, recurrence.state
        blocks: Any = exact_blocks(cell, state) if self.jacobian == "auto" else self.jacobian
        return Layout.of(blocks, cell, state)

    def run(self, recurrence: Recurrence) -> tuple[Any, State]:
        return self.run_with_report(recurrence)[0]

    def run_with_report(self, recurrence: Recurrence, chunks: Chunks = WHOLE) -> tuple[tuple[Any, State], NewtonReport]:
        """Returns what `run` does, and how it went; of a part of the steps, where others are elsewhere."""
        layout, cell = self._layout(recurrence), recurrence.cell
        exact = are_exact(layout.blocks, cell, recurrence.state)
        tolerance = self.tolerance or max(_tolerance(leaf.dtype) for leaf in jax.tree.leaves(recurrence.state))
        solver = Solver(cell, layout.blocks, exact, tolerance, self.iterations, self.damping, chunks)
        states, report = all_states(solver, recurrence)
        ys = _outputs(recurrence, states, chunks)
        last = jax.tree.map(lambda leaf: leaf[-1], states)
        return ((ys, states) if recurrence.keeps_states else ys, last), report


def _tolerance(dtype: DTypeLike) -> float:
    """Returns the largest residual of states of a type where none is named."""
    numbers = jnp.finfo(dtype)
    return (32 if numbers.bits > 16 else 2) * float(numbers.eps)


def _outputs(recurrence: Recurrence, states: State, chunks: Chunks) -> Array:
    """Returns the outputs of all steps from the states after them."""
    cell, params, steps = recurrence.cell, recurrence.params, recurrence.steps
    if cell.advances and steps.resets is None:
        return jax.vmap(lambda state, z: cell.read(params, state, z))(states, steps.z)
    # The whole step, where outputs need more than the new state, or must not be read of one that a reset cuts off.
    befores = shifted(states, chunks.before(states, recurrence.state), reverse=False)
    step = recurrence._replace(keeps_states=False).step
    return jax.vmap(lambda before, step_inputs: step(before, step_inputs)[1])(befores, steps)
