"""The rows that the library ships. ``python -m benchmarks.accelerator --collect DIR`` writes this file.

Rows are read in order: the first that a recurrence fits into is taken.
"""

from __future__ import annotations

from rnnjax.unrolling.known_devices import Row

ROWS: tuple[Row, ...] = ()
