"""Measures which method is fastest for each recurrence in a cell, and stores the choice for `Auto`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnjax.cells.cell import Cell, Params
from rnnjax.cells.sizes import as_batch_size, check_size
from rnnjax.errors import first_line
from rnnjax.machine import device_name, versions
from rnnjax.unrolling.auto import Recording, by_rule
from rnnjax.unrolling.candidates import METHODS, is_known, is_worth_compiling
from rnnjax.unrolling.checks import check_cell, check_method
from rnnjax.unrolling.known import keep_choices, recurrence_key
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.sequences import choose_again
from rnnjax.unrolling.trial import Trial, largest_error
from rnnjax.unrolling.tune_report import Timed, Tuned, TuneReport

_MARGIN = 0.97  # share of the time of the rule's method that another must stay below to be chosen
_LEAST_ROUNDS = 5
_TOO_SLOW = 3.0  # times as slow as the fastest: such a method is not timed any longer


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
    """Times every method that can serve a cell on this machine, and stores the fastest for each recurrence for `Auto`.

    Values, and gradients if they are timed, are compared with those of `Scan` first: a method that is wrong, or that
    raises, is never chosen, and the report says so. A choice applies to recurrences of exactly the same sizes and
    types, on the same kind of device, with the same versions. Another method is chosen only if it takes less than 97%
    of the time of the method that `Auto` takes by rule.

    Args:
      cell: the cell.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs.
      dtype: type of the inputs.
      gradient: whether the gradient is timed as well.
      params: the cell's parameters, needed if `init` does not return all of them; their values are not used.
      lengths: whether sequences are unrolled with `lengths`.
      resets: whether they are unrolled with resets.
      methods: the methods to time, besides `Scan()`. A method that is not the library's is timed, but not stored.
      seconds: each method is timed for at least that long, in turns with the others.
      keep: whether to store the choice in the user's cache, where `Auto` finds it.

    Returns:
      The times, and the method chosen for each recurrence.

    Raises:
      ValueError: for a shape or a dtype that inputs cannot have.
      TypeError: if the cell is not a cell, or a method not a method.
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
    """Returns the recurrences without those whose time must be equal to that of an earlier one."""
    by_key: dict[str, Recurrence] = {}
    for recurrence in recurrences:
        by_key.setdefault(recurrence_key(recurrence), recurrence)
    return list(by_key.values())


def keep_tuned(tuned: Sequence[Tuned]) -> None:
    """Stores the choices; `unroll` takes them from now on, except in programs that are already compiled."""
    choices, descriptions = {}, {}
    for each in tuned:
        key = recurrence_key(each.recurrence)
        descriptions[key] = each.title
        for with_gradient, method in ((False, each.forward), (True, each.gradient)):
            if method is not None and is_known(method):
                choices[key, with_gradient] = method
    if choices:
        keep_choices(choices, descriptions)
        choose_again()


def tune_recurrence(
    recurrence: Recurrence,
    measures: Sequence[str] = ("forward", "gradient"),
    methods: Sequence[Method] = METHODS,
    seconds: float = 0.3,
) -> Tuned:
    """Returns the times of the methods for one recurrence, and the fastest.

    Args:
      recurrence: the recurrence, as shapes.
      measures: what to time: "forward", and "gradient", which is forward and backward.
      methods: the methods, as in `tune`.
      seconds: how long to time each, as in `tune`.

    Raises:
      ValueError: for a recurrence whose arrays cannot be drawn at random.
    """
    trial = Trial.of(recurrence)
    suitable = [each for each in dict.fromkeys((Scan(), *methods)) if is_worth_compiling(each, recurrence)]
    results = {method: Timed(method) for method in suitable if _serves(method, recurrence)}
    for measure in measures:
        correct = [method for method in results if results[method].trouble is None]
        calls, troubles = _checked(trial, measure, correct)
        for method, median in medians(calls, seconds).items():
            results[method] = results[method]._replace(**{measure: median})
        for method, trouble in troubles.items():
            results[method] = results[method]._replace(trouble=trouble)
    rule = by_rule(recurrence, jax.default_backend())
    forward, gradient = (_fastest(results, measure, rule) for measure in ("forward", "gradient"))
    return Tuned(recurrence, tuple(results.values()), forward, gradient)


def _fastest(results: Mapping[Method, Timed], measure: str, rule: Method) -> Method | None:
    """Returns the fastest correct method; the rule's if that is hardly slower; None if none was timed."""
    times = {method: getattr(timed, measure) for method, timed in results.items() if timed.trouble is None}
    times = {method: seconds for method, seconds in times.items() if seconds is not None}
    if not times:
        return None
    fastest = min(times, key=times.__getitem__)
    return rule if rule in times and times[fastest] > _MARGIN * times[rule] else fastest


def _serves(method: Method, recurrence: Recurrence) -> bool:
    """Says whether a method can serve a recurrence; if its `why_not` raises, the trial will report that."""
    try:
        return method.why_not(recurrence) is None
    except Exception:
        return True


def _checked(
    trial: Trial, measure: str, methods: Sequence[Method]
) -> tuple[dict[Method, Callable[[], Any]], dict[Method, str]]:
    """Returns the calls of the methods that agree with `Scan`, and what is wrong with the others."""
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
    """Returns the median seconds of compiled calls, timed in turns; the slowest are timed only a few times."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    timed, rounds = list(calls), 0
    while timed and (rounds < _LEAST_ROUNDS or min(sum(times[name]) for name in timed) < seconds):
        for name in timed:
            started = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(time.perf_counter() - started)
        rounds += 1
        if rounds == _LEAST_ROUNDS:
            fastest = min(map(min, times.values()))
            timed = [name for name in timed if min(times[name]) <= _TOO_SLOW * fastest]
    return {name: statistics.median(values) for name, values in times.items()}
