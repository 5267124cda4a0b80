"""Measures which method is the fastest for the recurrences that a cell is made of, and keeps the answer for `Auto`."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnjax.cells.cell import Cell, Params
from rnnjax.cells.sizes import as_batch_size, check_size
from rnnjax.errors import first_line
from rnnjax.machine import device_name, versions
from rnnjax.unrolling.auto import Recording, by_rule
from rnnjax.unrolling.candidates import METHODS, fits_length, is_known, method_as_json
from rnnjax.unrolling.checks import check_cell, check_method
from rnnjax.unrolling.known import keep_choices, recurrence_key
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.sequences import choose_again
from rnnjax.unrolling.trial import Trial, dtype_of_products, largest_error

_MARGIN = 0.97  # of the rule's time: another method is chosen only if it takes less than that
_LEAST_ROUNDS = 5
_TOO_SLOW = 3.0  # times the fastest: such a method is not timed any further


class Timed(NamedTuple):
    """What was found of one method.

    Attributes:
      method: the method.
      forward, gradient: median seconds forward, and forward and backward; None where it was not timed.
      trouble: why it may not be chosen; None where it may.
    """

    method: Method
    forward: float | None = None
    gradient: float | None = None
    trouble: str | None = None


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was found for one recurrence.

    Attributes:
      recurrence: the recurrence, as shapes.
      methods: each method that was tried, in that order.
      forward, gradient: the method that is the fastest forward, and with the gradient; None where it was not asked.
    """

    recurrence: Recurrence
    methods: tuple[Timed, ...]
    forward: Method | None
    gradient: Method | None

    def __str__(self) -> str:
        rows = [("method", "forward, ms", "with gradient, ms", "")]
        for timed in self.methods:
            best = {"forward": self.forward, "with gradient": self.gradient}
            chosen = [measure for measure, method in best.items() if method == timed.method]
            remark = timed.trouble or (f"fastest {' and '.join(chosen)}" if chosen else "")
            rows.append((short(timed.method), _milliseconds(timed.forward), _milliseconds(timed.gradient), remark))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {remark}" for a, b, c, remark in rows]
        return "\n".join([self.title, *map(str.rstrip, lines)])

    @property
    def title(self) -> str:
        """The recurrence in words."""
        recurrence = self.recurrence
        batch = jax.tree.leaves(recurrence.steps.z)[0].shape[1:]
        batch = recurrence.xs.shape[1:-1] if recurrence.xs is not None else batch[:1]
        of = f"{short(recurrence.cell)}, T {recurrence.length}, batch {' x '.join(map(str, batch))}"
        features = "" if recurrence.xs is None else f", {recurrence.xs.shape[-1]} features"
        flags = [name for name in ("valid", "resets") if getattr(recurrence.steps, name) is not None]
        named = "".join({"valid": ", steps missing", "resets": ", resets"}[name] for name in flags)
        return f"{of}{features}, products in {dtype_of_products(recurrence)}{named}"


@dataclasses.dataclass(frozen=True)
class TuneReport:
    """What `tune` found; ``str(report)`` is a table.

    Attributes:
      tuned: the recurrences that a cell is made of, each that differs from those before it once.
      device: where it was measured.
      versions: of what it was measured with.
    """

    tuned: tuple[Tuned, ...]
    device: str
    versions: Mapping[str, str]

    @property
    def methods(self) -> tuple[Method, ...]:
        """The method that was chosen for each recurrence: by the time with the gradient, where that was measured."""
        return tuple(each.gradient or each.forward or Scan() for each in self.tuned)

    def __str__(self) -> str:
        named = ", ".join(f"{name} {self.versions.get(name)}" for name in ("python", "rnnjax", "jax"))
        return "\n\n".join([f"{self.device}; {named}", *map(str, self.tuned)])

    def as_json(self) -> dict[str, Any]:
        """Returns the same as an object to be written to a file, times in seconds."""

        def method(of: Method | None) -> Any:
            return None if of is None else method_as_json(of)

        recurrences = [
            {
                "recurrence": each.title,
                "forward": method(each.forward),
                "gradient": method(each.gradient),
                "methods": [timed._asdict() | {"method": method(timed.method)} for timed in each.methods],
            }
            for each in self.tuned
        ]
        return {"device": self.device, "versions": dict(self.versions), "recurrences": recurrences}


def tune(
    cell: Cell,
    shape: Sequence[int],
    *,
    dtype: DTypeLike = jnp.float32,
    gradient: bool = True,
    params: Params | None = None,
    lengths: bool = False,
    resets: bool = False,
    methods: Sequence[Method] = METHODS,
    seconds: float = 0.3,
    keep: bool = True,
) -> TuneReport:
    """Times every method that can serve a cell on this machine, and keeps the fastest of each recurrence for `Auto`.

    Values, and gradients where they are asked for, are compared with those of `Scan` first: a method that is wrong, or
    that raises, is never chosen, and the report says so. What is kept holds for exactly such recurrences, on such a
    device, with such versions. Where the method that `Auto` takes by rule is less than 3% slower, it stays.

    Args:
      cell: the cell.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs.
      dtype: type of the inputs.
      gradient: whether the gradient is timed as well; otherwise forward alone.
      params: its parameters, for a cell whose `init` does not make all of them; their values are not used.
      lengths, resets: whether sequences are unrolled with `lengths`, or with resets.
      methods: those that are tried, beside `Scan()`. One of another class than the library's is told, but not kept.
      seconds: for which each method is timed, at least, in turns with the others.
      keep: whether the choice is kept in the user's cache, where `Auto` finds it.

    Returns:
      The times, and the method that is chosen for each recurrence.

    Raises:
      ValueError: for a shape or a type that no inputs have; TypeError: for what is no cell or no method.
    """
    check_cell(cell)
    shape = tuple(check_size("each size of shape", size) for size in shape)
    if len(shape) < 2:
        raise ValueError(f"shape must be (T, *batch, I), got {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating-point type, got {jnp.dtype(dtype)}")
    methods = tuple(map(check_method, methods))
    recurrences = recurrences_of(cell, shape, dtype, params, lengths=lengths, resets=resets)
    measures = ("forward", "gradient") if gradient else ("forward",)
    tuned = [tune_recurrence(each, measures, methods, seconds) for each in distinct(recurrences)]
    if keep:
        keep_tuned(tuned)
    return TuneReport(tuple(tuned), device_name(), versions())


def recurrences_of(
    cell: Cell, shape: tuple[int, ...], dtype: DTypeLike, params: Params | None, *, lengths: bool, resets: bool
) -> list[Recurrence]:
    """Returns the recurrences in a cell, as shapes, in the order in which they are run.

    Args:
      cell: the cell.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs.
      dtype: type of the inputs.
      params: its parameters, or their shapes; None for those that its `init` makes.
      lengths: whether sequences end before T.
      resets: whether there are resets.
    """
    recording, (length, *batch, features) = Recording([]), shape

    def unrolled(params: Params, xs: Any, valid: Any, resets: Any) -> Any:
        params = cell.init(jax.random.key(0), features) if params is None else params
        state = cell.start(params, as_batch_size(tuple(batch)), xs.dtype)
        return recording.over(CellSequence(cell, params, xs, state, state, valid, resets, None))

    flag = jax.ShapeDtypeStruct((length, *batch), jnp.bool)
    xs = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    jax.eval_shape(unrolled, params, xs, flag if lengths else None, flag if resets else None)
    return recording.recurrences


def distinct(recurrences: Sequence[Recurrence]) -> list[Recurrence]:
    """Returns those that differ from all before them in what their time depends on."""
    found: dict[str, Recurrence] = {}
    for each in recurrences:
        found.setdefault(recurrence_key(each), each)
    return list(found.values())


def keep_tuned(tuned: Sequence[Tuned]) -> None:
    """Keeps what was chosen, and has `unroll` take it from now on, but where it is compiled in a program already."""
    found = [
        (recurrence_key(each.recurrence), each, name == "gradient", getattr(each, name))
        for each in tuned
        for name in ("forward", "gradient")
    ]
    kept = [(key, each, with_gradient, method) for key, each, with_gradient, method in found if method is not None]
    kept = [row for row in kept if is_known(row[3])]
    if kept:
        keep_choices(
            {(key, with_gradient): method for key, _, with_gradient, method in kept},
            {key: each.title for key, each, *_ in kept},
        )
        choose_again()


def tune_recurrence(
    recurrence: Recurrence,
    measures: Sequence[str] = ("forward", "gradient"),
    methods: Sequence[Method] = METHODS,
    seconds: float = 0.3,
) -> Tuned:
    """Returns which method is the fastest for one recurrence, given as shapes.

    Args:
      recurrence: the recurrence.
      measures: what is timed of "forward" and "gradient", which is forward and backward.
      methods, seconds: as in `tune`.

    Raises:
      ValueError: for a recurrence whose arrays cannot be drawn.
    """
    trial, rule = Trial.of(recurrence), by_rule(recurrence, jax.default_backend())
    tried = [each for each in dict.fromkeys((Scan(), *methods)) if fits_length(each, recurrence.length)]
    found: dict[Method, dict[str, Any]] = {method: {} for method in tried if _serves(method, recurrence)}
    for measure in measures:
        sound = [method for method in found if "trouble" not in found[method]]
        calls, troubles = _checked(trial, measure, sound)
        for method, median in medians(calls, seconds).items():
            found[method][measure] = median
        for method, trouble in troubles.items():
            found[method]["trouble"] = trouble

    def fastest(measure: str) -> Method | None:
        times = {m: of[measure] for m, of in found.items() if measure in of and "trouble" not in of}
        if not times:
            return None
        best = min(times, key=times.__getitem__)
        return rule if rule in times and times[best] > _MARGIN * times[rule] else best

    return Tuned(
        recurrence, tuple(Timed(method, **of) for method, of in found.items()), fastest("forward"), fastest("gradient")
    )


def _serves(method: Method, recurrence: Recurrence) -> bool:
    """Says whether a method has nothing against a recurrence; one that fails to say is tried, and fails there."""
    try:
        return method.why_not(recurrence) is None
    except Exception:
        return True


def _checked(
    trial: Trial, measure: str, methods: Sequence[Method]
) -> tuple[dict[Method, Callable[[], Any]], dict[Method, str]]:
    """Returns the calls of the methods that give what `Scan` does, and what is the matter with the others."""
    program = trial.forward if measure == "forward" else trial.with_gradient
    expected, calls, troubles = jax.device_get(program(Scan())()), {}, {}
    for method in methods:
        call = program(method)
        try:
            error = largest_error(call(), expected)
        except Exception as raised:  # a method, and the compiler below it, can raise anything
            troubles[method] = f"not chosen: it raises {type(raised).__name__}: {first_line(raised)}"
            continue
        if error <= trial.tolerance:
            calls[method] = call
        else:
            what = "values" if measure == "forward" else "values or gradients"
            troubles[method] = f"not chosen: its {what} are {error:.1e} from Scan's, above {trial.tolerance:.0e}"
    return calls, troubles


def medians(calls: Mapping[Any, Callable[[], Any]], seconds: float) -> dict[Any, float]:
    """Returns the median seconds of calls that are compiled, taken in turns; those far behind are given up early."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    left, rounds = list(calls), 0
    while left and (rounds < _LEAST_ROUNDS or min(sum(times[name]) for name in left) < seconds):
        for name in left:
            started = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(time.perf_counter() - started)
        rounds += 1
        if rounds == _LEAST_ROUNDS:
            fastest = min(map(min, times.values()))
            left = [name for name in left if min(times[name]) <= _TOO_SLOW * fastest]
    return {name: statistics.median(taken) for name, taken in times.items()}


def short(value: Any) -> str:
    """Returns a cell or a method in words, without those options that are what they are by default."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return getattr(value, "__name__", None) or repr(value)
    options = ((field, getattr(value, field.name)) for field in dataclasses.fields(value) if field.init)
    said = [f"{field.name}={short(option)}" for field, option in options if option != field.default]
    return f"{type(value).__name__}({', '.join(said)})"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3f}"
