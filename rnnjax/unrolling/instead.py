"""Which methods to name where one that was asked for does not serve a cell, and reasons that several of them have."""

from __future__ import annotations

from rnnjax.cells.cell import Cell
from rnnjax.cells.told_apart import check_told_apart
from rnnjax.cells.traits import fuses, has_memory, is_diagonal, is_linear
from rnnjax.unrolling.own_units import steps_together_differ
from rnnjax.unrolling.recurrence import Method, Recurrence


def methods_for(cell: Cell) -> str:
    """Returns methods that serve a cell on any device, the one that is for its kind first."""
    for is_of_kind, method in _FOR_KINDS:
        if is_of_kind(cell):
            return f"{method} or Scan()"
    return "Scan()"


_FOR_KINDS = (
    (fuses, "Fused()"),
    (is_linear, "Associative()"),
    (has_memory, "Chunkwise()"),
    (is_diagonal, "Newton()"),
)


def why_not_closed_over(method: Method, recurrence: Recurrence) -> str | None:
    """Returns in one sentence that a cell's step reads traced values besides its arguments; None if it does not."""
    if not recurrence.closes_over_traced:
        return None
    check_told_apart(recurrence.cell)  # it may have kept what it computed while it was traced before
    return (
        f"{type(method).__name__}() takes what a step reads as its arguments, and that of "
        f"{type(recurrence.cell).__name__} reads a value besides that is being traced, as by jax.grad or jax.jit; pass "
        "it as a parameter, or use Scan()"
    )


def why_not_together(method: Method, recurrence: Recurrence) -> str | None:
    """Returns in one sentence that a cell's equations do not take many steps at once; None if they do."""
    if not steps_together_differ(recurrence):
        return None
    return (
        f"{type(method).__name__}() takes many steps at once, and two steps of {type(recurrence.cell).__name__} give "
        "other numbers together than each by itself; have its equations take any leading axes, or use Scan()"
    )
