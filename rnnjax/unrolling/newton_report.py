"""What Newton's method did: how many iterations it took, and which steps were taken one after another."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.unrolling.newton import Newton
from rnnjax.unrolling.newton_states import NewtonReport
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.sequences import unroll


def newton_report(
    cell: Cell,
    params: Params,
    xs: Float[ArrayLike, "*B T I"],
    state: State | None = None,
    *,
    method: Newton | None = None,
    **options: Any,
) -> tuple[Float[Array, "*B T O"], State, tuple[NewtonReport, ...]]:
    """Runs a cell over a batch of sequences by Newton's method, as `unroll` does, and says how that went.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs ``[*batch, T, I]``; ``[T, *batch, I]`` with `time_major`.
      state: the state before the first step, each leaf ``[*batch, ...]``; None takes the cell's initial state.
      method: the method, with its options; None takes ``Newton()``.
      **options: as in `unroll`.

    Returns:
      The outputs, the final state, and a report for each recurrence in the cell, in the order in which they are run:
      one for each layer of a stack. There are none for sequences without a step.

    Raises:
      TypeError: for a method that is not `Newton`.
      ValueError: as `unroll`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.ParaGRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state, (report,) = rnnjax.newton_report(cell, params, jnp.ones((2, 100, 3)))
      >>> bool(report.converged.all()), report.right_steps.tolist(), int(report.iterations) < 10
      (True, [100, 100], True)
    """
    method = Newton() if method is None else method
    if not isinstance(method, Newton):
        raise TypeError(f"newton_report takes a Newton(...), got {method!r}")
    ys, last = unroll(cell, params, xs, state, method=_Reporting(method), **options)
    return (ys, last.state, last.reports) if isinstance(last, _Reported) else (ys, last, ())


class _Reported(NamedTuple):
    """The final state, and the reports, which `unroll` hands on in its place."""

    state: State
    reports: tuple[NewtonReport, ...]


@dataclasses.dataclass(frozen=True)
class _Reporting(Method):
    """Newton's method, with its reports in the final state."""

    newton: Newton

    def over(self, sequence: CellSequence) -> tuple[Array, Any]:
        collecting = _Collecting(self.newton, [])
        ys, state = collecting.over(sequence)
        return ys, _Reported(state, tuple(collecting.reports))


@dataclasses.dataclass(frozen=True, eq=False)
class _Collecting(Method):
    """Newton's method, which keeps the reports of the trace that it is in."""

    newton: Newton
    reports: list[NewtonReport]

    def why_not(self, recurrence: Recurrence) -> str | None:
        return self.newton.why_not(recurrence)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        result, report = self.newton.run_with_report(recurrence)
        self.reports.append(report)
        return result
