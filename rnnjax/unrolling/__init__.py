"""Unrolling: one function, and one object for each way to do it."""

from rnnjax.unrolling.associative import Associative
from rnnjax.unrolling.auto import Auto, choose_method
from rnnjax.unrolling.bidirectional import bidirectional, init_bidirectional
from rnnjax.unrolling.cell_check import check_cell
from rnnjax.unrolling.chunkwise import Chunkwise
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.kernels.cudnn import CuDNN
from rnnjax.unrolling.kernels.pallas import Pallas
from rnnjax.unrolling.linear_scan import linear_scan
from rnnjax.unrolling.native.native import Native
from rnnjax.unrolling.newton import Newton
from rnnjax.unrolling.newton_report import newton_report
from rnnjax.unrolling.newton_states import NewtonReport
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.sequences import static_unroll, unroll, unroll_states
from rnnjax.unrolling.static import Static
from rnnjax.unrolling.tuning import TuneReport, tune

__all__ = [
    "Associative",
    "Auto",
    "CellSequence",
    "Chunkwise",
    "CuDNN",
    "Fused",
    "Method",
    "Native",
    "Newton",
    "NewtonReport",
    "Pallas",
    "Recurrence",
    "Scan",
    "Static",
    "Steps",
    "TuneReport",
    "bidirectional",
    "check_cell",
    "choose_method",
    "init_bidirectional",
    "linear_scan",
    "newton_report",
    "static_unroll",
    "tune",
    "unroll",
    "unroll_states",
]
