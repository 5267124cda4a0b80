"""A batch split over devices: ``python -m benchmarks.devices``.

How much faster is a training step when more devices share its batch (strong scaling), how many more examples does it
take in the same time (weak scaling), and what do `jax.shard_map` and `jax.pmap` cost on one device against `jax.jit`?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks import command, engine, report, timing
from benchmarks.classifier import LEARNING_RATE, Case, classifier, plain_state, plain_step, repeated, shape
from benchmarks.report import Column
from benchmarks.subjects import CELLS
from rnnjax.config import ParallelConfig, TrainConfig
from rnnjax.errors import require
from rnnjax.parallel.mesh import provide_cpu_devices

MAPS = ("shard_map", "pmap")

_EPILOG = """\
A step is forward, backward and Adam; a call takes several, as one of the training command takes an epoch's, its state
donated. "jit" is the step written by hand, on one device without any mapping; on a CPU that device may use all cores,
and does where an operation is large enough. "shard_map" and "pmap" are the training engine's. All contenders of a table
are built, then run in turns; a turn is as many calls as take 50 ms after one that is not timed. Times are those of a
step, medians over the turns with their quartiles. "gain" is examples per second over those of
"jit", by the median of the turns' ratios; for one device, "cost" is the time over that of "jit", less one.
"""

_COLUMNS = (
    Column("scaling", "contender.scaling", width=7, left=True),
    Column("map", "contender.map", width=9, left=True),
    Column("devices", "contender.devices"),
    Column("batch", "contender.batch"),
    Column("a step", "seconds.median", "s", 8),
    Column("low", "seconds.low", "s", 8),
    Column("high", "seconds.high", "s", 8),
    Column("gain", unit=".2f", width=5),
    Column("cost", unit="+.1%", width=6),
    Column("turns"),
)


class Contender(NamedTuple):
    """A way to take a step: "strong" or "weak" scaling; map: "jit", "shard_map" or "pmap"; devices; the batch."""

    scaling: str
    map: str
    devices: int
    batch: int


class Row(NamedTuple):
    """What was measured of a contender: seconds of a step, and its examples per second over those of `jit`.

    `cost` is the time that mapping adds on one device, as a part of that of `jit`.
    """

    contender: Contender
    seconds: timing.Spread
    gain: float
    cost: float | None
    turns: int


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    provide_cpu_devices()
    available = jax.device_count()
    options.devices = options.devices or available
    sentence = f"--devices {options.devices} is more than the {available} devices there are"
    require(options.devices <= available, sentence)
    about = f"{options.cell}, (T, B, I, H) = ({', '.join(map(str, options.shape))}), float32"
    report.show(options, _COLUMNS, measure_all(options), about=about)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    what = "A batch split over devices, by shard_map and by pmap."
    parser = command.FiguresParser("devices", what, _EPILOG, cell="BasicRNN", shape=(2, 5, 3, 4), seconds=0.01)
    add = parser.add_argument
    add("--cell", choices=CELLS, default="LSTM")
    add("--shape", type=shape, default=(28, 150, 28, 150), metavar="T,B,I,H", help="default: 28,150,28,150")
    add("--devices", type=command.at_least_one, metavar="N", help="up to so many; all")
    add("--steps", type=command.at_least_one, default=8, metavar="N", help="of a call; 8")
    parser.add_seconds(20.0, "of measuring a table, at least three turns")
    return parser.options(arguments)


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of each kind of scaling: `jit` on one device, then each way of mapping on each number."""
    case, counts = Case(options.cell, 1, *options.shape), device_counts(options.devices)
    for scaling, weak in (("strong", 0), ("weak", 1)):
        contenders = [Contender(scaling, "jit", 1, case.B)]
        contenders += [Contender(scaling, map, count, case.B * count**weak) for count in counts for map in MAPS]
        calls = {each: training_steps(case, each, options.steps) for each in contenders}
        found = timing.in_turns(calls, seconds=options.seconds)
        times = {each: [time / options.steps for time in own] for each, own in found.items()}
        yield from (row(each, own, times[contenders[0]], case.B) for each, own in times.items())


def device_counts(most: int) -> list[int]:
    """Returns the powers of two below a number, and the number."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


def row(contender: Contender, seconds: Sequence[float], base: Sequence[float], base_batch: int) -> Row:
    """Returns the row of a contender from its turns and those of `jit`."""
    gains = [one / own * contender.batch / base_batch for own, one in zip(seconds, base)]
    gain = timing.spread(gains).median
    cost = 1 / gain - 1 if contender.devices == 1 and contender.map != "jit" else None
    return Row(contender, timing.spread(seconds), gain, cost, len(seconds))


def training_steps(case: Case, contender: Contender, steps: int) -> Callable[[], Any]:
    """Returns a call that takes so many steps from the state that the one before it left, and returns their losses."""
    case = case._replace(B=contender.batch)
    model, task = classifier(case)
    optimizer = optax.adam(LEARNING_RATE)
    parallel = ParallelConfig(map=contender.map if contender.map in MAPS else MAPS[0])
    config = TrainConfig(batch_size=case.B, parallel=parallel)
    if contender.map != "jit":
        return engine.batch_call(task, config, optimizer, contender.devices, steps)
    state = plain_state(engine.first_params(task, config, optimizer))
    rows = np.tile(np.arange(case.B), (steps, 1))
    placed = jax.device_put((state, case.inputs(), rows), jax.devices()[0])
    return repeated(many(plain_step(model.apply)), *placed)


def many(step: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Returns a function that takes a step on the examples of each of some rows, as training does."""

    def taken(state: Any, examples: Any, rows: Any) -> tuple[Any, Any]:
        def one(state: Any, batch: Any) -> tuple[Any, Any]:
            return step(state, jax.tree.map(lambda values: values[batch], examples))

        return jax.lax.scan(one, state, rows)

    return taken


if __name__ == "__main__":
    command.run(main)
