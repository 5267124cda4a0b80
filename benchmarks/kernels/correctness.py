"""Is what every method computes right on this device? ``python -m benchmarks.kernels.correctness``.

Outputs and gradients of each kind of gated cell, the README's own among them, with lengths and resets, beside float64.
A method that refuses resets is tried without them, and one that refuses lengths without these too.
"""

from __future__ import annotations

import argparse
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks import command, report
from benchmarks.kernels.cases import HEAD, KINDS, Case, numbers
from benchmarks.kernels.reference import TOLERANCE, Result, compute, worst
from benchmarks.report import Column
from benchmarks.subjects import on_this_device
from rnnjax import CuDNN, Fused, Method, Pallas, Scan, Static, unroll
from rnnjax.errors import FAILED

METHODS: tuple[Method, ...] = (
    Scan(),
    Scan(unroll=4),
    Scan(remat_every=3),
    Fused(),
    Fused(unroll=2),
    Static(),
    Pallas(),
    CuDNN(),
)
_DEVICE = threading.Lock()  # programs are compiled side by side, and run one by one

_COLUMNS = (
    Column("cell", width=13, left=True),
    Column("type", "dtype", width=8, left=True),
    Column("method", width=32, left=True),
    Column("with", lambda row: row.given or "refused", width=18, left=True),
    Column("error", unit=".1e", width=7),
    Column("", lambda row: f"WRONG: {row.part}" if row.wrong else "", left=True),
)


class Row(NamedTuple):
    """What was found of a method: its largest relative error and in what it is, or the reason why it did not run."""

    cell: str
    dtype: str
    method: str
    given: str | None = None
    error: float | None = None
    part: str | None = None
    reason: str | None = None
    wrong: bool = False


def main(arguments: Sequence[str]) -> None:
    """Checks, prints and writes; exit code 1 where anything is wrong."""
    options = parse(arguments)
    rows = report.show(options, _COLUMNS, measure_all(options), last=summary)
    if any(row.wrong for row in rows):
        raise SystemExit(FAILED)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    small = {"cells": ["LSTM", "own"], "dtypes": ["float32"], "hidden": 4, "batch": 9}
    parser = command.FiguresParser("kernels.correctness", "Methods beside float64.", **small)
    add = parser.add_argument
    add("--cells", nargs="+", choices=KINDS, default=list(KINDS))
    add("--dtypes", nargs="+", choices=TOLERANCE, default=list(TOLERANCE))
    add("--hidden", type=command.at_least_one, default=64)
    add("--batch", type=command.at_least_one, default=16)
    return parser.options(arguments)


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every cell, type and method, as many at a time as there are cores."""
    with ThreadPoolExecutor(report.available_cores()) as pool:
        cases = [
            Case(cell, 1, options.hidden, options.batch, HEAD, dtype, projected=True)
            for cell, dtype in itertools.product(options.cells, options.dtypes)
        ]
        yield from pool.map(measure, *zip(*itertools.product(cases, METHODS)))


def measure(case: Case, method: Method) -> Row:
    """Returns the row of a method, with as much of lengths and resets as it takes."""
    method = on_this_device(method)
    row = Row(case.cell, case.dtype, repr(method))
    for words in (["lengths", "resets"], ["lengths"], []):
        given = {name: values for name, values in lengths_and_resets(case).items() if name in words}
        named = row._replace(given=" and ".join(words) or "neither")
        try:
            program, arguments = prepared(case, method, given)
            traced = program.trace(*arguments)
        except ValueError as error:  # which says why it cannot; the last reason is the one that counts
            row = row._replace(reason=report.in_short(error))
            continue
        except Exception as error:  # whatever it fails with, the others go on
            return named._replace(reason=report.in_short(error), wrong=True)
        try:
            compiled = traced.lower().compile()
            with _DEVICE:
                ys, (d_params, d_xs) = jax.block_until_ready(compiled(*arguments))
            error, part = worst(Result(ys, d_xs, d_params), reference(case, given))
            wrong = not error <= TOLERANCE[case.dtype]
            return named._replace(error=error, part=part, wrong=wrong, reason=None)
        except Exception as error:
            return named._replace(reason=report.in_short(error), wrong=True)
    return row


def lengths_and_resets(case: Case) -> dict[str, np.ndarray]:
    """Returns lengths ``[B]`` from zero to all steps, and resets ``[T, B]``, of the first step among them."""
    sequences = np.arange(case.B, dtype=np.int32)
    return {"lengths": sequences % (case.T + 1), "resets": (sequences + np.arange(case.T)[:, None]) % 5 == 0}


def prepared(case: Case, method: Method, given: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Returns a jitted function that makes outputs and gradients, and its arguments."""
    cell = case.make()
    arguments = jax.tree.map(lambda values: jnp.asarray(values, case.dtype), list(numbers(case)))

    def both(params: Any, xs: Float[Array, "T B I"], d_ys: Float[Array, "T B H"]) -> Any:
        ys, pull_back = jax.vjp(
            lambda params, xs: unroll(cell, params, xs, method=method, time_major=True, **given)[0], params, xs
        )
        return ys, pull_back(d_ys)

    return jax.jit(both), arguments


def reference(case: Case, given: dict[str, np.ndarray]) -> Result:
    """Returns outputs and gradients in float64."""
    valid = np.arange(case.T)[:, None] < given["lengths"] if "lengths" in given else None
    return compute(case, numbers(case), valid, given.get("resets"))


def summary(rows: Sequence[Row]) -> str:
    """Returns what all rows come to."""
    refused, wrong = sum(row.given is None for row in rows), sum(row.wrong for row in rows)
    return f"\n{len(rows)} tried, {refused} refused, {wrong} wrong"


if __name__ == "__main__":
    command.run(main)
