"""A batch split over devices: ``python -m benchmarks.devices``.

How much faster is a training step when more devices share its batch (strong scaling), how many more examples does it
take in the same time (weak scaling), and what do `jax.shard_map` and `jax.pmap` cost on one device against `jax.jit`?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

from benchmarks import report, timing
from benchmarks.contenders import LEARNING_RATE, Case, classifier, repeated
from benchmarks.peers import CELLS, Turn, shape
from rnnjax.commands import exit_code
from rnnjax.errors import require
from rnnjax.parallel.mapping import map_over_devices
from rnnjax.parallel.mesh import BATCH, batch_mesh, provide_cpu_devices
from rnnjax.training.batches import EVERYWHERE, batch_weights, place
from rnnjax.training.program import STATE, place_state
from rnnjax.training.state import initial_train_state
from rnnjax.training.step import metric_sums, train_step

MAPS = ("shard_map", "pmap")

_EPILOG = """\
A step is forward, backward and Adam; a call takes several, as one of the training command takes an epoch's, its state
donated. "jit" is the step on one device without any mapping; on a CPU that device may use all cores, and does where an
operation is large enough. The contenders of a table are built, then
run in turns; a turn is as many calls as take 50 ms after one that is not timed. Times are those of a step, medians over
the turns with their quartiles. "gain" is examples per second over those of "jit", by the median of the turns' ratios;
for one device, "cost" is the time over that of "jit", less one.
"""

_COLUMNS = (
    report.Column("scaling", 7, left=True),
    report.Column("map", 9, left=True),
    report.Column("devices"),
    report.Column("batch"),
    report.Column("a step", 8),
    report.Column("low", 8),
    report.Column("high", 8),
    report.Column("gain", 5),
    report.Column("cost", 6),
    report.Column("turns"),
)


class Contender(NamedTuple):
    """A way to take a step: "strong" or "weak" scaling; map: "jit", "shard_map" or "pmap"; devices; the batch."""

    scaling: str
    map: str
    devices: int
    batch: int


class Row(NamedTuple):
    """What was measured of a contender: seconds of a step, and its examples per second over those of `jit`."""

    contender: Contender
    seconds: timing.Spread
    gain: float
    turns: int

    @property
    def cost(self) -> float:
        """The time that mapping adds on one device, as a part of that of `jit`."""
        return 1 / self.gain - 1

    def as_json(self) -> dict[str, Any]:
        """Returns the row as JSON can hold it."""
        own = {"seconds": self.seconds._asdict(), "gain": self.gain, "turns": self.turns}
        return self.contender._asdict() | own | ({"cost": self.cost} if self.contender.devices == 1 else {})


def main(arguments: Sequence[str]) -> None:
    """Runs the command with the arguments after its name.

    Raises:
      ConfigError: if there are not so many devices.
    """
    options = parse(arguments)
    provide_cpu_devices()
    available = jax.device_count()
    most = options.devices or available
    require(most <= available, f"--devices {most} is more than the {available} devices there are")
    machine, rows = report.machine(), []
    sizes = ", ".join(map(str, options.shape))
    print(f"{report.header(machine)}\n{options.cell}, (T, B, I, H) = ({sizes}), float32\n")
    print(report.title_line(_COLUMNS), flush=True)
    for scaling in ("strong", "weak"):
        case = Case(options.cell, 1, *options.shape)
        for row in measure(case, scaling, device_counts(most), options.steps, options.seconds):
            rows.append(row)
            print(row_line(row), flush=True)
            if options.json:
                settings = {"cell": options.cell, "shape": options.shape, "steps": options.steps}
                report.write_json(options.json, machine=machine, settings=settings, rows=[r.as_json() for r in rows])
    if options.plot:
        plot(rows, options.plot)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the command's options."""
    parser = report.Parser(
        "python -m benchmarks.devices",
        description="A batch split over devices, by shard_map and by pmap.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cell", choices=CELLS, default="LSTM")
    add("--shape", type=shape, default=(28, 150, 28, 150), metavar="T,B,I,H", help="default: 28,150,28,150")
    add("--devices", type=report.at_least_one, metavar="N", help="up to so many; all")
    add("--steps", type=report.at_least_one, default=8, metavar="N", help="of a call; 8")
    add("--seconds", type=report.positive, default=20.0, help="of measuring a table, at least three turns; 20")
    add("--json", type=report.output_path, metavar="PATH", help="write all figures here")
    add("--plot", type=report.plot_path, metavar="PATH", help="draw the gains here: .png, .svg or .pdf")
    return parser.parse_args(arguments)


def device_counts(most: int) -> list[int]:
    """Returns the powers of two below a number, and the number."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


def measure(case: Case, scaling: str, counts: Sequence[int], steps: int, seconds: float) -> list[Row]:
    """Returns the rows of one kind of scaling: `jit` on one device, then each way of mapping on each number."""
    contenders = [Contender(scaling, "jit", 1, case.B)] + [
        Contender(scaling, map, count, case.B * (count if scaling == "weak" else 1)) for count in counts for map in MAPS
    ]
    turns = {each: Turn(training_steps(case._replace(B=each.batch), each, steps)) for each in contenders}
    timing.interleave(
        {f"{contender.map} on {contender.devices}": turn for contender, turn in turns.items()},
        repeats=1000,
        seconds=seconds,
    )
    times = {contender: [time / steps for time in turn.times[1:]] for contender, turn in turns.items()}
    return [row(contender, own, times[contenders[0]], case.B) for contender, own in times.items()]


def row(contender: Contender, seconds: Sequence[float], base: Sequence[float], base_batch: int) -> Row:
    """Returns the row of a contender from its turns and those of `jit`."""
    gains = [one / own * contender.batch / base_batch for own, one in zip(seconds, base)]
    return Row(contender, timing.spread(seconds), timing.spread(gains).median, len(seconds))


def training_steps(case: Case, contender: Contender, steps: int) -> Callable[[], Any]:
    """Returns a call that takes so many steps from the state that the one before it left."""
    _, task = classifier(case)
    optimizer = optax.adam(LEARNING_RATE)
    xs, labels = case.inputs()
    batch, state = {"xs": xs, "labels": labels}, initial_train_state(task, optimizer)(0)
    if contender.map == "jit":
        device = jax.devices()[0]
        program = jax.jit(many(plain_step(task, optimizer), steps), donate_argnums=0)
        return repeated(program, *jax.device_put((state, batch), device))
    mesh, split = batch_mesh(str(contender.devices), case.B), PartitionSpec(BATCH)
    weight = place(mesh, split, batch_weights(mesh, case.B))
    rows = np.minimum(np.arange(len(weight)), case.B - 1)
    batch = place(mesh, split, {name: values[rows] for name, values in batch.items()})
    state = place_state(mesh, state)

    def step(state: Any, batch: Any, weight: Any) -> Any:
        return train_step(task, optimizer, BATCH, state, batch, weight)

    specs = (STATE, split, split)
    compile_for = map_over_devices(many(step, steps), mesh, specs, (STATE, EVERYWHERE), map=contender.map, donate=[0])
    compiled = compile_for(state, batch, weight)
    return repeated(lambda state, batch: compiled(state, batch, weight), state, batch)


def many(step: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """Returns a function that takes a step so many times, on the same batch."""

    def taken(state: Any, *batch: Any) -> Any:
        return jax.lax.scan(lambda state, _: step(state, *batch), state, length=steps)

    return taken


def plain_step(task: Any, optimizer: optax.GradientTransformation) -> Callable[[Any, Any], Any]:
    """Returns a step with nothing mapped: the gradient of the mean loss, and the optimiser."""

    def step(state: Any, batch: Any) -> Any:
        key = jax.random.fold_in(state.key, state.step)

        def mean_loss(params: Any) -> tuple[Any, Any]:
            sums = metric_sums(task.loss(params, None, batch, key)[0])
            means = {name: total.value / total.weight for name, total in sums.items()}
            return means["loss"], means

        gradients, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return step


def row_line(row: Row) -> str:
    """Returns a row as a line of the table."""
    contender, times = row.contender, [report.si(value, "s") for value in row.seconds]
    cost = f"{row.cost:+.1%}" if contender.devices == 1 and contender.map != "jit" else ""
    return report.line(_COLUMNS, [*contender, *times, f"{row.gain:.2f}", cost, row.turns])


def plot(rows: Sequence[Row], path: Any) -> None:
    """Draws the gains over the number of devices, one picture a kind of scaling, beside the ideal."""
    figure, axes = report.figure(1, 2)
    for axis, scaling in zip(axes[0], ("strong", "weak")):
        for map in MAPS:
            own = [row for row in rows if row.contender[:2] == (scaling, map)]
            axis.plot([row.contender.devices for row in own], [row.gain for row in own], marker="o", label=map)
        most = max(row.contender.devices for row in rows)
        axis.plot([1, most], [1, most], color="grey", linestyle=":", label="ideal")
        axis.set(xlabel="devices", ylabel="examples per second over jit on one", title=f"{scaling} scaling")
        axis.legend()
    report.save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
