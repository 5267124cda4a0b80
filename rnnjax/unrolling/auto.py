"""The choice of a method for each recurrence; everything that decides it is in this module."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.backend import fused_by_rule, on_cpu
from rnnjax.cells.cell import Cell, Params, State, compute_dtype
from rnnjax.cells.sizes import as_batch_size
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.scan import Scan


class Row(NamedTuple):
    """A measurement: on devices of a kind, for a type, up to a width and a batch, this method was the fastest."""

    device_kind: str
    dtype: str
    hidden: int
    batch: int
    method: Method


# The first row that fits decides. No GPU has been measured yet; the rule that `fastest` has for a CPU was measured.
MEASURED: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True)
class Auto(Method):
    """For each recurrence, the method that was measured to be fastest on this kind of device.

    Where nothing was measured, it takes `Fused` for gated cells on a CPU, and `Scan` for everything else. In a stack,
    every layer gets its own method. `unroll` uses it by default.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.LSTM(8), rnnjax.GRU(4)])
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Auto())
      >>> ys.shape
      (2, 5, 4)
    """

    keeps_states: ClassVar[bool] = True

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        return fastest(recurrence, jax.default_backend()).run(recurrence)


def fastest(recurrence: Recurrence, platform: str) -> Method:
    """Returns the method that `Auto` takes for a recurrence on "cpu", "gpu" or "tpu"; its `why_not` is None."""
    if recurrence.keeps_states:
        return Scan()
    measured = _measured(recurrence, platform)
    if measured is not None and measured.why_not(recurrence) is None:
        return measured
    return Fused() if fused_by_rule(platform) and fuses(recurrence.cell) else Scan()


def _measured(recurrence: Recurrence, platform: str) -> Method | None:
    """Returns what the table has for the device that JAX computes on, None if nothing."""
    if not MEASURED or on_cpu(platform) or not fuses(recurrence.cell):
        return None
    h = recurrence.state.h
    hidden, batch = h.shape[-1], h.size // h.shape[-1]
    device_kind = jax.devices()[0].device_kind
    dtype = jnp.dtype(compute_dtype(recurrence.steps.z)).name
    rows = (row for row in MEASURED if row.device_kind in device_kind and row.dtype == dtype)
    return next((row.method for row in rows if hidden <= row.hidden and batch <= row.batch), None)


def choose_method(
    cell: Cell, shape: tuple[int, ...], platform: str | None = None, *, params: Params | None = None
) -> Method:
    """Returns the method that `unroll` takes for a cell by default.

    Args:
      cell: the cell.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs, which are float32.
      platform: "cpu", "gpu" or "tpu"; None takes JAX's default.
      params: the cell's parameters, needed if `init` does not return all of them, as for a cell with attention.

    Returns:
      The method that `Auto` takes for all recurrences in the cell, or ``Auto()`` if it takes more than one.

    Example:
      >>> import rnnjax
      >>> rnnjax.choose_method(rnnjax.LSTM(128), (50, 32, 16), "cpu")
      Fused(unroll=1)
    """
    methods = set(methods_of(cell, shape, platform, params=params))
    return methods.pop() if len(methods) == 1 else Auto()


def methods_of(
    cell: Cell, shape: tuple[int, ...], platform: str | None = None, *, params: Params | None = None
) -> list[Method]:
    """Returns the method that `Auto` takes for each recurrence in a cell, in the order in which they are run.

    Args:
      cell: the cell, which is unrolled without a key, as in evaluation.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs, which are float32.
      platform: "cpu", "gpu" or "tpu"; None takes JAX's default.
      params: the cell's parameters, needed if `init` does not return all of them.
    """
    recording = _Recording(platform or jax.default_backend(), [])

    def unrolled(params, xs):
        params = cell.init(jax.random.key(0), shape[-1]) if params is None else params
        state = cell.start(params, as_batch_size(shape[1:-1]), xs.dtype)
        return recording.over(CellSequence(cell, params, xs, state, None, None, None, None))

    jax.eval_shape(unrolled, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    return recording.methods


@dataclasses.dataclass(frozen=True)
class _Recording(Method):
    """Records what `Auto` would take for each recurrence, and runs it by `Scan`, which can run any."""

    platform: str
    methods: list[Method]

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        self.methods.append(fastest(recurrence, self.platform))
        return Scan().run(recurrence)


@contextlib.contextmanager
def choosing(method_for: Callable[[Cell], Method | None]) -> Iterator[None]:
    """Within this context, the default method of `unroll` is ``method_for(cell)``, or `Auto` where that is None.

    It chooses the methods of a whole model without a change to the model's code. A function that is traced within the
    context keeps its methods afterwards.
    """
    token = _CHOOSING.set(method_for)
    try:
        yield
    finally:
        _CHOOSING.reset(token)


def default_method(cell: Cell) -> Method:
    """Returns the default method of `unroll` for a cell."""
    return _CHOOSING.get()(cell) or Auto()


_CHOOSING: ContextVar[Callable[[Cell], Method | None]] = ContextVar("choosing", default=lambda cell: None)
