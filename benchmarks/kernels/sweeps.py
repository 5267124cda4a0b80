"""Which cases `benchmarks.kernels` measures, in sweeps, and who takes part in each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.kernels.cases import KINDS, Case
from benchmarks.kernels.rows import BASE
from benchmarks.subjects import LOOPS


class Job(NamedTuple):
    """A case and who takes part in it."""

    case: Case
    contenders: tuple[str, ...]


class Sweep(NamedTuple):
    """Jobs in the order of their importance, and the part of the time that they may take."""

    share: float
    jobs: tuple[Job, ...]


def sweeps() -> dict[str, Sweep]:
    """Returns all that is measured, by name."""
    x = BASE._replace(projected=True)
    x32 = x._replace(dtype="float32")
    ours, beside = ("pallas", "fused", "scan"), ("pallas", "torch fp16", "fused")
    main = (
        Job(BASE, ("pallas", "fused", "scan", "scan(4)", "scan(16)")),
        Job(x, ("torch fp16", "pallas", "torch", "fused", "scan", "flax")),
        Job(x32, ("cudnn", "jax.rnn", "torch", "pallas", "fused", "scan", "flax")),
        Job(BASE._replace(dtype="float32"), ours),
    )
    heads = tuple(Job(BASE._replace(heads=n, H=768 // n), ours) for n in (16, 8, 4, 2))
    loops = (*LOOPS, *(f"{loop} {flag}" for flag in ("while", "double") for loop in LOOPS))
    graphs = tuple(f"{loop} graph" for loop in LOOPS)
    short = Case("LSTM", 1, 150, 150, 28, "float32", projected=True)
    widths = (256, 768, 64, 512, 128, 1024)
    own = [Job(BASE._replace(cell=cell, H=H), ("pallas", "fused")) for H in widths for cell in KINDS]
    cells = [job for job in own if job.case != BASE]
    dnn = [Job(x._replace(cell=cell, H=H), beside) for H in (256, 128, 512, 64, 1024) for cell in ("LSTM", "GRU")]
    return {
        "main": Sweep(0.28, main),
        "loops": Sweep(0.22, (Job(BASE, loops), Job(short, loops), Job(short, graphs), Job(BASE, graphs))),
        "heads": Sweep(0.12, heads),
        "cells": Sweep(0.22, tuple(_alternately(cells, dnn))),
        "batch": Sweep(0.1, tuple(Job(x._replace(B=B), beside) for B in (64, 256, 8, 2, 128, 32, 4))),
        "time": Sweep(0.06, tuple(Job(x._replace(T=T), beside) for T in (256, 2048, 512))),
    }


def accelerator_sweeps() -> dict[str, Sweep]:
    """Returns what `benchmarks.accelerator` measures, by name.

    "base" is the published shape and twelve heads of 64, "trained" what `configs` train, "grid" widths and batches.
    """
    x = BASE._replace(projected=True)
    bf16, fp32 = "bfloat16", "float32"
    cells = ("LSTM", "GRU", "own", "BasicRNN")
    heads = [_of_all(BASE._replace(cell=cell, heads=12, H=64)) for cell in cells]
    whole = [_of_all(x._replace(cell=cell, dtype=dtype)) for dtype in (bf16, fp32) for cell in cells]
    trained = [
        ("LSTM", 650, 20, 35),
        ("LSTM", 512, 64, 128),
        ("GRU", 512, 64, 128),
        ("GRU", 512, 128, 30),
        ("LSTM", 150, 150, 28),
        ("GRU", 150, 150, 28),
        ("BasicRNN", 150, 150, 28),
        ("LSTM", 1500, 20, 35),
        ("BasicRNN", 31, 128, 28),
    ]
    sizes = [(H, B) for B in (64, 16, 256) for H in (256, 512, 128)]
    grid = [x._replace(cell=cell, H=H, B=B, dtype=dtype) for H, B in sizes for cell in cells for dtype in (bf16, fp32)]
    return {
        "base": Sweep(0.4, (_of_all(BASE), *whole[:1], *heads[:1], *whole[1:], *heads[1:])),
        "trained": Sweep(0.3, tuple(_of_all(x._replace(cell=c, H=H, B=B, T=T, dtype=fp32)) for c, H, B, T in trained)),
        "grid": Sweep(0.3, tuple(_of_all(case) for case in grid)),
    }


def _of_all(case: Case) -> Job:
    """Returns a case with all that can run it."""
    ours = ("pallas", "fused", "scan", "scan(4)")
    if not case.projected or case.cell == "own":
        return Job(case, ours)
    low = ("torch fp16",) if case.dtype == "bfloat16" else ()
    dnn = ("cudnn",) if (case.cell, case.dtype) == ("LSTM", "float32") else ()
    return Job(case, (*ours, *dnn, *low, "torch", "keras"))


def _alternately(first: Sequence[Job], second: Sequence[Job]) -> list[Job]:
    """Returns the jobs of both, three of the first to one of the second."""
    threes = [first[at : at + 3] for at in range(0, len(first), 3)]
    ones = [[job] for job in second]
    return [job for pair in itertools.zip_longest(threes, ones, fillvalue=()) for group in pair for job in group]


def small(job: Job) -> Job:
    """Returns a job of sizes that take no time, and its plain loops without flags."""
    case = job.case._replace(heads=min(job.case.heads, 2), H=8, B=2, T=10)
    return Job(case, tuple(name for name in job.contenders if " " not in name or not name.startswith(tuple(LOOPS))))
