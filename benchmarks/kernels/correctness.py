"""Is what every method computes right on this device? ``python -m benchmarks.kernels.correctness``.

Outputs and gradients of each kind of gated cell, the README's own among them, with lengths and resets, beside NumPy in
float64. A method that refuses resets is tried without them, and one that refuses lengths without these too.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks import command, report
from benchmarks.kernels.cases import KINDS, Case, Numbers, case_parameters, cell_params, numbers
from benchmarks.kernels.reference import TOLERANCE, Result, projected_recurrence, worst
from benchmarks.report import Column
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
_STEPS = 8
_DEVICE = threading.Lock()  # programs are compiled side by side, and run one by one

_COLUMNS = (
    Column("cell", width=13, left=True),
    Column("type", "dtype", width=8, left=True),
    Column("method", width=32, left=True),
    Column("with", lambda row: row.given or "refused", width=18, left=True),
    Column("error", unit=".1e", width=7),
    Column("", lambda row: f"WRONG: {row.part}" if row.wrong else "", left=True),
)


class Given(NamedTuple):
    """Which steps are missing, and which begin anew; ``[B]`` and ``[B, T]``, None where there are none such."""

    what: str
    lengths: np.ndarray | None
    resets: np.ndarray | None


class Row(NamedTuple):
    """What was found of a method: its largest relative error and in what it is, or why it did not run."""

    cell: str
    dtype: str
    method: str
    given: str | None
    error: float | None
    part: str | None
    reason: str | None
    refused: bool

    @property
    def wrong(self) -> bool:
        """Whether it failed, or its error is beyond the type's."""
        return not self.refused and not (self.error is not None and self.error <= TOLERANCE[self.dtype])

    def as_json(self) -> dict[str, Any]:
        """Returns the row with whether it is wrong."""
        return {**self._asdict(), "wrong": self.wrong}


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      SystemExit: with code 1 where anything is wrong.
    """
    options = parse(arguments)
    rows = report.show(options, _COLUMNS, measure_all(options), last=summary)
    if any(row.wrong for row in rows):
        raise SystemExit(FAILED)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    small = {"cells": ["LSTM", "own"], "dtypes": ["float32"], "hidden": 4, "batch": 9, "interpret": True}
    parser = command.FiguresParser("kernels.correctness", "Methods beside float64.", **small)
    add = parser.add_argument
    add("--cells", nargs="+", choices=KINDS, default=list(KINDS))
    add("--dtypes", nargs="+", choices=TOLERANCE, default=list(TOLERANCE))
    add("--hidden", type=command.at_least_one, default=64)
    add("--batch", type=command.at_least_one, default=16)
    add("--interpret", action="store_true", help="run the kernels of Pallas in an interpreter, on any machine")
    return parser.options(arguments)


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every cell, type and method, as many at a time as there are cores."""
    with ThreadPoolExecutor(report.available_cores()) as pool:
        cases = [
            Case(cell, 1, options.hidden, options.batch, _STEPS, dtype, projected=True)
            for cell in options.cells
            for dtype in options.dtypes
        ]
        waiting = [
            pool.submit(measure, case, method if method != Pallas() else Pallas(interpret=options.interpret))
            for case in cases
            for method in METHODS
        ]
        for each in waiting:
            yield each.result()


def measure(case: Case, method: Method) -> Row:
    """Returns the row of a method, with as much of lengths and resets as it takes."""
    row = Row(case.cell, case.dtype, repr(method), None, None, None, None, refused=True)
    for given in all_given(case):
        program, values = prepared(case, method, given)
        try:
            traced = program.trace(*values)
        except ValueError as error:  # which says why it cannot; the last reason is the one that counts
            row = row._replace(reason=report.in_short(error))
            continue
        except Exception as error:  # whatever it fails with, the others go on
            return row._replace(given=given.what, reason=report.in_short(error), refused=False)
        try:
            compiled = traced.lower().compile()
            with _DEVICE:
                made = jax.block_until_ready(compiled(*values))
            error, part = error_of(case, given, made)
            return row._replace(given=given.what, error=error, part=part, reason=None, refused=False)
        except Exception as error:
            return row._replace(given=given.what, reason=report.in_short(error), refused=False)
    return row


def all_given(case: Case) -> list[Given]:
    """Returns lengths from zero to all steps with resets, the first step's among them; the lengths alone; nothing."""
    lengths = np.arange(case.B, dtype=np.int32) % (case.T + 1)
    resets = (np.arange(case.B)[:, None] + np.arange(case.T)) % 5 == 0
    return [Given("lengths and resets", lengths, resets), Given("lengths", lengths, None), Given("neither", None, None)]


def prepared(case: Case, method: Method, given: Given) -> tuple[Any, tuple[Any, ...]]:
    """Returns a jitted function that makes outputs and gradients, and its arguments."""
    cell, found, dtype = case.kind.make(case.H), numbers(case), jnp.dtype(case.dtype)
    params = cell_params(case, {name: jnp.asarray(each[0], dtype) for name, each in found.parameters.items()})
    options = {"lengths": given.lengths, "resets": given.resets, "method": method, "time_major": False}
    xs, d_ys = (jnp.asarray(values.swapaxes(0, 1), dtype) for values in (found.inputs, found.d_outputs))

    def both(params: Any, xs: Float[Array, "B T I"], d_ys: Float[Array, "B T H"]) -> Any:
        ys, pull_back = jax.vjp(lambda params, xs: unroll(cell, params, xs, **options)[0], params, xs)
        return ys, pull_back(d_ys)

    return jax.jit(both), (params, xs, d_ys)


def error_of(case: Case, given: Given, made: Any) -> tuple[float, str]:
    """Returns the largest relative error of what was computed, and in what it is."""
    ys, (d_params, d_xs) = made
    d_parameters = {name: as_float64(d) for name, d in case_parameters(case, d_params).items()}
    got = Result(as_float64(ys).swapaxes(0, 1), as_float64(d_xs).swapaxes(0, 1), d_parameters)
    return worst(got, reference(case, numbers(case), given))


def reference(case: Case, found: Numbers, given: Given) -> Result:
    """Returns outputs and gradients in float64."""
    valid, resets = np.ones((case.T, case.B), bool), np.zeros((case.T, case.B), bool)
    if given.lengths is not None:
        valid = np.arange(case.T)[:, None] < given.lengths
    if given.resets is not None:
        resets = given.resets.T
    parameters = {name: each[0] for name, each in found.parameters.items()}
    return projected_recurrence(case.cell, parameters, found.inputs, found.d_outputs, valid, resets)


def as_float64(values: Any) -> np.ndarray:
    """Returns an array of the device in float64."""
    return np.asarray(values).astype(np.float64)


def summary(rows: Sequence[Row]) -> str:
    """Returns what all rows come to."""
    refused, wrong = sum(row.refused for row in rows), sum(row.wrong for row in rows)
    return f"\n{len(rows)} tried, {refused} refused, {wrong} wrong"


if __name__ == "__main__":
    command.run(main)
