"""The choice of a method, for each recurrence by itself: everything that decides it is in this room."""

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


# Rows are read in order. It is empty until a GPU has been measured; on a CPU the rule of `fastest` was measured.
MEASURED: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True)
class Auto(Method):
    """For each recurrence the method that was measured to be fastest on this kind of device, else a rule.

    A stack of a gated layer and one that is not gets a method each. The rule: on a CPU `Fused` for gated cells, `Scan`
    for everything else. It is what `unroll` takes where it is given no method.
    """

    keeps_states: ClassVar[bool] = True

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        return fastest(recurrence, jax.default_backend()).run(recurrence)


def fastest(recurrence: Recurrence, platform: str) -> Method:
    """Returns the method that `Auto` takes for a recurrence on "cpu", "gpu" or "tpu"; it can serve."""
    if recurrence.keeps_states:
        return Scan()
    measured = _measured(recurrence, platform)
    if measured is not None and measured.why_not(recurrence) is None:
        return measured
    return Fused() if fused_by_rule(platform) and fuses(recurrence.cell) else Scan()


def _measured(recurrence: Recurrence, platform: str) -> Method | None:
    """Returns what the table says for the device that JAX computes on."""
    if not MEASURED or on_cpu(platform) or not fuses(recurrence.cell):
        return None
    device_kind, h = jax.devices()[0].device_kind, recurrence.state.h
    dtype, hidden, batch = jnp.dtype(compute_dtype(recurrence.steps.z)).name, h.shape[-1], h.size // h.shape[-1]
    rows = (row for row in MEASURED if row.device_kind in device_kind and row.dtype == dtype)
    return next((row.method for row in rows if hidden <= row.hidden and batch <= row.batch), None)


def choose_method(
    cell: Cell, shape: tuple[int, ...], platform: str | None = None, *, params: Params | None = None
) -> Method:
    """Returns the method that `unroll` takes for a cell where none is given.

    Args:
      cell: the cell.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs, which are float32.
      platform: "cpu", "gpu" or "tpu"; None takes JAX's default.
      params: its parameters, for a cell whose `init` does not make all of them, such as one that attends to a memory.

    Returns:
      What `Auto` takes for every recurrence that the cell is made of, or ``Auto()`` where it takes several;
      `methods_of` tells them one by one.
    """
    methods = set(methods_of(cell, shape, platform, params=params))
    return methods.pop() if len(methods) == 1 else Auto()


def methods_of(
    cell: Cell, shape: tuple[int, ...], platform: str | None = None, *, params: Params | None = None
) -> list[Method]:
    """Returns the method that `Auto` takes for each recurrence that a cell is made of, in the order they are run.

    Args:
      cell, shape, platform, params: as in `choose_method`; the cell is taken as in evaluation, without a key.
    """
    listening = _Listening(platform or jax.default_backend(), [])

    def unrolled(params, xs):
        params = cell.init(jax.random.key(0), shape[-1]) if params is None else params
        state = cell.start(params, as_batch_size(shape[1:-1]), xs.dtype)
        return listening.over(CellSequence(cell, params, xs, state, None, None, None, None))

    jax.eval_shape(unrolled, params, jax.ShapeDtypeStruct(shape, jnp.float32))
    return listening.methods


@dataclasses.dataclass(frozen=True)
class _Listening(Method):
    """Notes what `Auto` would take for each recurrence, and lets it pass by the loop that takes any."""

    platform: str
    methods: list[Method]

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        self.methods.append(fastest(recurrence, self.platform))
        return Scan().run(recurrence)


@contextlib.contextmanager
def choosing(method_for: Callable[[Cell], Method | None]) -> Iterator[None]:
    """Within it, `unroll` without a method takes ``method_for(cell)``; where that is None, `Auto`.

    So a whole model is unrolled in some way without its own code knowing of it. What is traced within stays so.
    """
    token = _CHOOSING.set(method_for)
    try:
        yield
    finally:
        _CHOOSING.reset(token)


def default_method(cell: Cell) -> Method:
    """Returns what `unroll` takes for a cell where it is given no method."""
    return _CHOOSING.get()(cell) or Auto()


_CHOOSING: ContextVar[Callable[[Cell], Method | None]] = ContextVar("choosing", default=lambda cell: None)
