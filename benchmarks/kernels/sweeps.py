"""Which cases `benchmarks.kernels` measures, in sweeps, most important first, and who takes part in each."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.kernels.cases import Case
from benchmarks.subjects import CELLS


class Times(NamedTuple):
    """Seconds without and with the gradients."""

    forward: float
    both: float


BASE = Case("LSTM", heads=1, H=768, B=16, T=1024)
PROJECTED = BASE._replace(projected=True)
# The fastest of FlashRNN's published plots (Pöppel, Beck and Hochreiter, 2024), on an H100 SXM: FlashRNN fused in
# bfloat16, and where inputs are projected cuDNN in float16 by PyTorch.
PUBLISHED = {BASE: Times(4.87e-3, 13.61e-3), PROJECTED: Times(2.01e-3, 5.19e-3)}

_CELLS = ("LSTM", "GRU", "own", "BasicRNN")
_TYPES = ("bfloat16", "float32")
_BATCHES, _WIDTHS = (64, 16, 256), (256, 512, 128)
# Cell, H, B and T of what `configs` train.
_TRAINED = (
    ("LSTM", 650, 20, 35),
    ("LSTM", 512, 64, 128),
    ("GRU", 512, 64, 128),
    ("GRU", 512, 128, 30),
    ("LSTM", 150, 150, 28),
    ("GRU", 150, 150, 28),
    ("BasicRNN", 150, 150, 28),
    ("LSTM", 1500, 20, 35),
    ("BasicRNN", 31, 128, 28),
)


def sweeps() -> dict[str, list[Case]]:
    """Returns all that is measured, by name.

    "base" is the published shape and twelve heads of 64, "trained" what `configs` train, "grid" widths and batches.
    """
    heads = [BASE._replace(cell=cell, heads=12, H=64) for cell in _CELLS]
    whole = [PROJECTED._replace(cell=cell, dtype=dtype) for dtype in _TYPES for cell in _CELLS]
    sizes = [PROJECTED._replace(H=H, B=B) for B in _BATCHES for H in _WIDTHS]
    return {
        "base": [BASE, whole[0], heads[0], *whole[1:], *heads[1:]],
        "trained": [Case(cell, 1, H, B, T, "float32", projected=True) for cell, H, B, T in _TRAINED],
        "grid": [case._replace(cell=cell, dtype=dtype) for case in sizes for cell in _CELLS for dtype in _TYPES],
    }


def contenders(case: Case) -> list[str]:
    """Returns all who can run a case."""
    names = ["pallas", "fused", "scan", "scan(4)"]
    if not case.projected or case.cell not in CELLS:
        return names
    if (case.cell, case.dtype) == ("LSTM", "float32"):
        names.append("cudnn")
    if case.dtype == "bfloat16":
        names.append("torch fp16")
    if case._replace(dtype=PROJECTED.dtype) == PROJECTED:
        names.append("flax")
    return [*names, "torch", "keras"]


def small(case: Case) -> Case:
    """Returns a case of sizes that take no time."""
    return case._replace(heads=min(case.heads, 2), H=8, B=2, T=10)
