"""Training and inference beside the field's other libraries: ``python -m benchmarks.peers``.

How long does a training step (forward, backward, Adam), and how long does inference take, of the same network in the
same process, in turns?
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks import command, report, timing
from benchmarks.classifier import Case, shape
from benchmarks.peers.contenders import CONTENDERS, USES, missing_package
from benchmarks.report import Column
from benchmarks.subjects import CELLS
from rnnjax.parallel.mesh import batch_mesh, provide_cpu_devices

SHAPES = (
    (28, 150, 28, 150),
    (28, 128, 28, 31),
    (20, 50, 1, 100),
    (6, 1, 5, 10),
    (35, 20, 200, 200),
    (35, 20, 650, 650),
    (100, 64, 128, 512),
    (300, 32, 64, 256),
)
STACKED = ((28, 128, 28, 31), (35, 20, 200, 200))
JAX_PEERS = ("linen", "nnx", "haiku", "equinox", "keras")
_SPINNING = 0.3  # seconds; OpenMP's threads wait for work so long at most

_EPILOG = """\
A case is a cell, layers and (T, B, I, H). All contenders of a case are built, then run in turns; a turn is as many
calls as take 50 ms after one that is not timed, and after PyTorch's, whose threads spin on for a while, there is a
pause, so that no contender pays for the threads of the one before it.

rnnjax is used as by its training command: 8 steps in a call, on one CPU device or two, whichever is the faster. With
--plain it is used as the others are: `unroll` in a jit of the user's own, one device, one step in a call; with --plain
--tune after `rnnjax.tune`.

Times are of one step, medians over the turns. "/ jax" is the fastest other JAX library's time over ours, "/ torch"
PyTorch's over ours: above 1 ours is faster. "roof" is the rate of our recurrent layers' products over that of one
step's product [B, H] x [H, G H] alone, on all cores and devices. Geometric means over the cases stand below.
"""

_COLUMNS = (
    Column("cell", "case.cell", width=8, left=True),
    Column("layers", "case.layers"),
    Column("T, B, I, H", lambda row: ", ".join(map(str, row.case[2:])), width=18, left=True),
    Column("what", width=5, left=True),
    Column("devices"),
    *(Column(name, lambda row, name=name: row.seconds.get(name), "s", 7) for name in CONTENDERS),
    Column("/ jax", "ratio_to_jax", ".2f", 5),
    Column("/ torch", "ratio_to_torch", ".2f"),
    Column("roof", "roofline", ".0%", 5),
    Column("first call", lambda row: row.first_call_seconds.get("rnnjax"), "s", 9),
)


class Row(NamedTuple):
    """What was measured of a case: seconds by contender, and what stands beside them."""

    case: Case
    what: str
    devices: int
    seconds: dict[str, float]
    first_call_seconds: dict[str, float]
    skipped: dict[str, str]
    roofline: float | None
    ratio_to_jax: float | None
    ratio_to_torch: float | None


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    if options.use == "command":
        provide_cpu_devices()
    rows = (row for case in cases(options) for row in measure(case, options.peers, options.seconds, options.use))
    report.show(options, _COLUMNS, rows, last=lambda rows: "\n".join(["", *summary(rows)]))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    small = {"cells": ["BasicRNN"], "shapes": [(4, 3, 2, 5)], "seconds": 0.01}
    what = "Training and inference beside other libraries, in turns."
    parser = command.FiguresParser("peers", what, _EPILOG, **small)
    add = parser.add_argument
    add("--cells", nargs="+", choices=CELLS, default=CELLS)
    add("--shapes", nargs="+", type=shape, default=SHAPES, metavar="T,B,I,H", help="all of the documented ones")
    add("--no-stacks", action="store_true", help="leave out the stacks of three layers")
    add("--peers", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    add("--plain", action="store_true", help="rnnjax by `unroll` in a jit, on one device, one step in a call")
    add("--tune", action="store_true", help="with --plain: after `rnnjax.tune`, whose choices are stored as usual")
    parser.add_seconds(4.0, "of measuring a case, at least three turns")
    options = parser.options(arguments)
    if options.tune and not options.plain:
        parser.error("--tune needs --plain: the training command measures by itself")
    options.use = "tuned" if options.tune else "plain" if options.plain else "command"
    return options


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yields the cases asked for: one layer of every shape, then stacks of three."""
    for cell in options.cells:
        for sizes in options.shapes:
            yield Case(cell, 1, *sizes)
        for sizes in STACKED if not options.no_stacks else ():
            if sizes in options.shapes:
                yield Case(cell, 3, *sizes)


def measure(case: Case, peers: Sequence[str], seconds: float, use: str = "command") -> Iterator[Row]:
    """Yields the rows of a case: training and inference.

    Args:
      case: the network and its inputs.
      peers: names of the contenders.
      seconds: of measuring each row.
      use: how this library takes part, of `USES`.
    """
    contenders = CONTENDERS | {"rnnjax": USES[use]}
    skipped = {name: why for name in peers if (why := missing_package(name, case))}
    calls = {name: contenders[name](case) for name in peers if name not in skipped}
    rate = product_rate(case)
    for what, flops in (("train", 3 * case.forward_flops), ("infer", case.forward_flops)):
        timed: dict[str, Callable[[], Any]] = {name: getattr(call, what) for name, call in calls.items()}
        first = {name: timing.duration(call) for name, call in timed.items()}
        times = medians(timed, seconds)
        if what == "train":
            times = {name: seconds / calls[name].steps for name, seconds in times.items()}
        roofline = flops / times["rnnjax"] / rate if "rnnjax" in times else None
        devices = getattr(calls["rnnjax"], f"{what}_devices") if "rnnjax" in calls else 1
        ratios = (ratio(times, names) for names in (JAX_PEERS, ["torch"]))
        yield Row(case, what, devices, times, first, skipped, roofline, *ratios)


def ratio(seconds: Mapping[str, float], names: Sequence[str]) -> float | None:
    """Returns the time of the fastest of some contenders over ours; None where none took part."""
    known = [seconds[name] for name in names if name in seconds]
    return min(known) / seconds["rnnjax"] if known and "rnnjax" in seconds else None


def medians(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Returns the median time of one call of each contender, run in turns of some calls."""
    times = timing.in_turns(calls, seconds=seconds, pauses={"torch": _SPINNING})
    return {name: timing.spread(each).median for name, each in times.items()}


def product_rate(case: Case) -> float:
    """Returns the floating-point operations a second of ``[B, H] x [H, G H]``, the best of one device and of all."""
    return max(_product_rate(case, devices) for devices in {1, batch_mesh("auto", case.B).size})


@functools.lru_cache
def _product_rate(case: Case, devices: int) -> float:
    mesh, split = batch_mesh(str(devices), case.B), PartitionSpec("batch")
    count = min(max(10, int(1e9 / (2 * case.B * case.H * case.gates * case.H))), 100_000)  # a tenth of a second or more

    def products(h: Any, w: Any) -> Any:
        # Each product needs the one before, as in a recurrence; the gates are folded back by a sum.
        def one(_: Any, h: Any) -> Any:
            return (h @ w)[:, : case.H] * 0.5

        return jax.lax.fori_loop(0, count, one, h)

    run = jax.jit(jax.shard_map(products, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split))
    h, w = jnp.ones((case.B, case.H)), jnp.full((case.H, case.gates * case.H), 0.01)
    jax.block_until_ready(run(h, w))
    seconds = min(timing.duration(functools.partial(run, h, w)) for _ in range(5))
    return count * 2 * case.B * case.H * case.gates * case.H / seconds


def summary(rows: Sequence[Row]) -> list[str]:
    """Returns geometric means and the smallest of the ratios over all cases."""
    lines = []
    for what, field in itertools.product(("train", "infer"), ("ratio_to_jax", "ratio_to_torch")):
        ratios = [getattr(row, field) for row in rows if row.what == what and getattr(row, field)]
        if ratios:
            other = "the fastest other JAX library" if field == "ratio_to_jax" else "PyTorch"
            mean = statistics.geometric_mean(ratios)
            lines.append(f"{what}, against {other}: {mean:.2f}x (geometric mean), {min(ratios):.2f}x at least")
    return lines


if __name__ == "__main__":
    command.run(main)
