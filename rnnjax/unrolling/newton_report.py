"""What Newton's method did: how many iterations it took, and which steps were taken one after another."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.unrolling.chunks import WHOLE, Chunks
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
    method: Method | None = None,
    **options: Any,
) -> tuple[Float[Array, "*B T O"], State, tuple[NewtonReport, ...]]:
    """Runs a cell over a batch of sequences by Newton's method, as `unroll` does, and says how that went.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs ``[*batch, T, I]``; ``[T, *batch, I]`` with `time_major`.
      state: the state before the first step, each leaf ``[*batch, ...]``; None takes the cell's initial state.
      method: the method, with its options: `Newton`, or one that has a `newton`, such as `TimeSplit`, inside its map;
        None takes ``Newton()``.
      **options: as in `unroll`.

    Returns:
      The outputs, the final state, and a report for each recurrence in the cell that is run by Newton's method, in the
      order in which they are run: one for each layer of a stack. There are none for sequences without a step.

    Raises:
      TypeError: for a method that is not `Newton`, and has none.
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
    if not isinstance(method, Newton) and not hasattr(method, "newton"):
        raise TypeError(f"newton_report takes a Newton(...), or a method that has one, got {method!r}")
    ys, last = unroll(cell, params, xs, state, method=_Reporting(method), **options)
    return (ys, last.state, last.reports) if isinstance(last, _Reported) else (ys, last, ())


class _Reported(NamedTuple):
    """The final state, and the reports, which `unroll` hands on in its place."""

    state: State
    reports: tuple[NewtonReport, ...]


@dataclasses.dataclass(frozen=True)
class _Reporting(Method):
    """Newton's method, or one that has it, with the reports in the final state."""

    method: Any

    def over(self, sequence: CellSequence) -> tuple[Array, Any]:
        newton = self.method if isinstance(self.method, Newton) else self.method.newton
        collecting = _Collecting(**vars(newton))
        method = collecting if newton is self.method else dataclasses.replace(self.method, newton=collecting)
        ys, state = method.over(sequence)
        return ys, _Reported(state, tuple(_up_to(len(sequence.xs), report) for report in collecting.reports))


def _up_to(length: int, report: NewtonReport) -> NewtonReport:
    """Returns a report without steps that a split over devices has added to make its parts equal."""
    return report._replace(right_steps=jnp.minimum(report.right_steps, length))


@dataclasses.dataclass(frozen=True)
class _Collecting(Newton):
    """Newton's method, which keeps the reports of the trace that it is in."""

    reports: list[NewtonReport] = dataclasses.field(default_factory=list)

    def run_with_report(self, recurrence: Recurrence, chunks: Chunks = WHOLE) -> tuple[tuple[Any, State], NewtonReport]:
        found = super().run_with_report(recurrence, chunks)
        self.reports.append(found[1])
        return found
