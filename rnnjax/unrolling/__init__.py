"""Unrolling: one function, and one object for each way to do it."""

from rnnjax.unrolling.bidirectional import bidirectional, init_bidirectional
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.recurrence import Method, Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.static import Static
from rnnjax.unrolling.unroll import choose_method, static_unroll, unroll, unroll_states

__all__ = [
    "Fused",
    "Method",
    "Recurrence",
    "Scan",
    "Static",
    "Steps",
    "bidirectional",
    "choose_method",
    "init_bidirectional",
    "static_unroll",
    "unroll",
    "unroll_states",
]
