"""Which methods to name where one that was asked for does not serve a cell."""

from __future__ import annotations

from rnnjax.cells.cell import Cell
from rnnjax.cells.traits import fuses, is_diagonal, is_linear


def methods_for(cell: Cell) -> str:
    """Returns methods that serve a cell on any device, the one that is for its kind first."""
    for is_of_kind, method in ((fuses, "Fused()"), (is_linear, "Associative()"), (is_diagonal, "Newton()")):
        if is_of_kind(cell):
            return f"{method} or Scan()"
    return "Scan()"
