"""Memory of a training step over the length of the sequence: ``python -m benchmarks.memory``.

How many bytes does a step hold at once, with every state kept, with some kept and the rest computed again, and with
the fused recurrence?
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import rnnjax
from benchmarks import report, timing

CELLS = ("BasicRNN", "LSTM", "GRU")


def methods(length: int) -> dict[str, rnnjax.Method]:
    """Returns the methods that are compared, for T steps."""
    return {
        "scan": rnnjax.Scan(),
        "scan, remat": rnnjax.Scan(remat_every=math.isqrt(length)),
        "fused": rnnjax.Fused(),
    }


_EPILOG = """\
A step is the gradient, with respect to the parameters, of the mean of a scalar read off every output; inputs are made
inside the program, so that what grows with T is what the unrolling keeps, and those inputs. Bytes are temporaries as
the compiler plans them; "growth" is the power of T with which they grew since the T before. "run" is one step's time.
"""

_COLUMNS = (
    report.Column("cell", 8, left=True),
    report.Column("T", 6),
    report.Column("method", 11, left=True),
    report.Column("memory", 8),
    report.Column("growth", 6),
    report.Column("run", 8),
)


class Row(NamedTuple):
    """What was measured of a cell, T and method; `run_seconds` is None where it was not run."""

    cell: str
    T: int
    method: str
    temp_bytes: int
    growth: float | None
    run_seconds: float | None


def main(arguments: Sequence[str]) -> int:
    """Runs the command with the arguments after its name; returns its exit code."""
    options = parse(arguments)
    machine, rows = report.machine(), []
    print(f"{report.header(machine)}\nbatch {options.batch}, input {options.input}, hidden {options.hidden}, float32\n")
    print(report.title_line(_COLUMNS), flush=True)
    for row in measure_all(options):
        rows.append(row)
        print(row_line(row), flush=True)
        if options.json:
            report.write_json(options.json, machine=machine, rows=[row._asdict() for row in rows])
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = report.Parser(
        "python -m benchmarks.memory",
        description="Memory of a training step over the length of the sequence.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, count = parser.add_argument, report.at_least_one
    add("--cells", nargs="+", choices=CELLS, default=["LSTM"])
    add("--lengths", nargs="+", type=count, default=[1024, 4096, 16384, 65536], metavar="T")
    add("--batch", type=count, default=8)
    add("--input", type=count, default=16)
    add("--hidden", type=count, default=128)
    add("--run-limit", type=report.positive, default=8e9, metavar="BYTES", help="run what needs no more than this; 8e9")
    add("--json", type=report.output_path, metavar="PATH", help="write all figures here")
    return parser.parse_args(arguments)


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every cell, length and method."""
    for cell in options.cells:
        before: dict[str, Row] = {}
        for length in sorted(options.lengths):
            for name, method in methods(length).items():
                row = measure(options, cell, length, name, method, before.get(name))
                before[name] = row
                yield row


def measure(
    options: argparse.Namespace, name: str, length: int, label: str, method: rnnjax.Method, before: Row | None
) -> Row:
    """Returns the row of one cell, length and method; `before` is that of a smaller T."""
    cell = getattr(rnnjax, name)(options.hidden)
    params = cell.init(jax.random.key(0), options.input)
    step = training_step(cell, method, (options.batch, length, options.input))
    built = timing.build(step, params)
    if built.memory is None:
        raise SystemExit("this backend does not say how much memory a program takes")
    used = built.memory.temp_bytes
    seconds = None
    if used <= options.run_limit:
        built.run(params)
        seconds = timing.duration(lambda: built.run(params))
    growth = None if before is None else math.log(used / before.temp_bytes) / math.log(length / before.T)
    return Row(name, length, label, used, growth, seconds)


def training_step(cell: rnnjax.Cell, method: rnnjax.Method, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """Returns the gradient of a loss on sequences ``[B, T, I]`` as a function of the parameters."""

    def loss(params: Any) -> Float[Array, ""]:
        xs = jnp.broadcast_to(jnp.sin(jnp.arange(shape[1], dtype=jnp.float32))[:, None], shape)
        ys, _ = rnnjax.unroll(cell, params, xs, method=method)
        return jnp.mean(ys @ jnp.ones(cell.output_size))

    return jax.grad(loss)


def row_line(row: Row) -> str:
    """Returns a row as a line of the table."""
    growth = "" if row.growth is None else f"{row.growth:.2f}"
    figures = [report.si(row.temp_bytes, "B"), growth, report.si(row.run_seconds, "s") or "not run"]
    return report.line(_COLUMNS, [row.cell, row.T, row.method, *figures])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
