"""Memory of a training step over the length of the sequence: ``python -m benchmarks.memory``.

How many bytes does a step hold at once, with every state kept, with some kept and the rest computed again, and with
the fused recurrence?
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import rnnjax
from benchmarks import command, report, timing
from benchmarks.report import Column
from benchmarks.subjects import CELLS
from rnnjax.errors import ConfigError

READS = ("last", "every")


def methods(length: int) -> dict[str, rnnjax.Method]:
    """Returns the methods that are compared, for T steps."""
    return {
        "scan": rnnjax.Scan(),
        "scan, remat": rnnjax.Scan(remat_every=math.isqrt(length)),
        "fused": rnnjax.Fused(),
    }


_EPILOG = """\
A step is the gradient, with respect to the parameters, of the mean of what the loss reads: the last output, by way of
the final state, or every output, which then grow like T whatever the method. Inputs are the program's arguments. Bytes
are its temporaries as the compiler plans them; "growth" is the power of T with which they grew since the T before.
"run" is one step's time.
"""

_COLUMNS = (
    Column("cell", width=8, left=True),
    Column("reads", width=5, left=True),
    Column("T", width=6),
    Column("method", width=11, left=True),
    Column("memory", "temp_bytes", "B", 8),
    Column("growth", unit=".2f", width=6),
    Column("run", lambda row: report.si(row.run_seconds, "s") or "not run", width=8),
)


class Row(NamedTuple):
    """What was measured of a cell, what the loss reads, T and method; `run_seconds` is None where it was not run."""

    cell: str
    reads: str
    T: int
    method: str
    temp_bytes: int
    growth: float | None
    run_seconds: float | None


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    about = f"batch {options.batch}, input {options.input}, hidden {options.hidden}, float32"
    report.show(options, _COLUMNS, measure_all(options), about=about)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what, small = "Memory of a training step over the length of the sequence.", {"lengths": [16, 64], "hidden": 8}
    parser = command.FiguresParser("memory", what, _EPILOG, batch=2, **small)
    add, count = parser.add_argument, command.at_least_one
    add("--cells", nargs="+", choices=CELLS, default=["LSTM"])
    add("--reads", nargs="+", choices=READS, default=list(READS), help="outputs that the loss reads; both")
    add("--lengths", nargs="+", type=count, default=[1024, 4096, 16384, 65536], metavar="T")
    add("--batch", type=count, default=8)
    add("--input", type=count, default=16)
    add("--hidden", type=count, default=128)
    limit = "run what needs no more than this; 8e9"
    add("--run-limit", type=command.positive, default=8e9, metavar="BYTES", help=limit)
    return parser.options(arguments)


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every cell, outputs read, length and method."""
    for name, reads in itertools.product(options.cells, options.reads):
        cell = getattr(rnnjax, name)(options.hidden)
        params, before = cell.init(jax.random.key(0), options.input), {}
        for length in sorted(options.lengths):
            xs = np.random.default_rng(0).standard_normal((length, options.batch, options.input), np.float32)
            for label, method in methods(length).items():
                used, seconds = measure(training_step(cell, method, reads), params, xs, options.run_limit)
                row = Row(name, reads, length, label, used, growth(before.get(label), length, used), seconds)
                before[label] = row
                yield row


def measure(step: Callable[..., Any], params: Any, xs: np.ndarray, run_limit: float) -> tuple[int, float | None]:
    """Returns the bytes of a step's temporaries and, unless they are more than the limit, its time in seconds."""
    built = timing.build(step, params, xs)
    if built.memory is None:
        raise ConfigError("this backend does not say how much memory a program takes")
    used = built.memory.temp_bytes
    if used > run_limit:
        return used, None
    jax.block_until_ready(built.run(params, xs))
    return used, timing.duration(lambda: built.run(params, xs))


def growth(before: Row | None, length: int, used: int) -> float | None:
    """Returns the power of T with which memory grew since the row of a smaller T."""
    return None if before is None else math.log(used / before.temp_bytes) / math.log(length / before.T)


def training_step(cell: rnnjax.Cell, method: rnnjax.Method, reads: str) -> Callable[[Any, Array], Any]:
    """Returns the gradient of a loss as a function of the parameters and of inputs ``[T, B, I]``."""

    def loss(params: Any, xs: Float[Array, "T B I"]) -> Float[Array, ""]:
        ys, state = rnnjax.unroll(cell, params, xs, method=method, time_major=True)
        return jnp.mean(state.h if reads == "last" else ys @ jnp.ones(cell.output_size))

    return jax.grad(loss)


if __name__ == "__main__":
    command.run(main)
