"""The choice of a method for each recurrence; everything that decides it is in this module."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.backend import fused_by_rule, scans_in_order
from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.sizes import as_batch_size
from rnnjax.cells.traits import fuses, has_memory, is_linear
from rnnjax.unrolling.associative import Associative
from rnnjax.unrolling.candidates import can_serve
from rnnjax.unrolling.chunkwise import Chunkwise
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.known import Methods, given_choice, kept_choice, shipped_choice
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.scan import Scan


@dataclasses.dataclass(frozen=True)
class Auto(Method):
    """For each recurrence the fastest method: as measured here, by a table of devices, or by a rule.

    What `rnnjax.tune` measured on this machine holds for exactly that recurrence (with RNNJAX_TUNE=0 it is not read).
    Next comes the table of devices that the library ships, then the rule: on a CPU `Fused` for gated and `Associative`
    for linear cells, `Chunkwise` for those with a memory, `Scan` for everything else. In a stack, every layer gets its
    own method. `unroll` uses it by default. What is already compiled keeps its method.

    Attributes:
      gradient: whether the methods are compared by their time with the gradient, or by their time forward.
      methods: methods by `rnnjax.unrolling.known.recurrence_key`, used instead of what was measured here; ``()``: none.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.LSTM(8), rnnjax.GRU(4)])
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Auto())
      >>> ys.shape
      (2, 5, 4)
    """

    keeps_states: ClassVar[bool] = True

    gradient: bool = True
    methods: Methods | None = None

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        return self.method_for(recurrence, jax.default_backend()).run(recurrence)

    def method_for(self, recurrence: Recurrence, platform: str) -> Method:
        """Returns the method for a recurrence on "cpu", "gpu" or "tpu"; its `why_not` is None."""
        # Whatever was measured was measured without states, and may be a method that cannot return them.
        if recurrence.keeps_states:
            return Scan()
        # What was measured here says nothing about another platform.
        known = self._known(recurrence) if platform == jax.default_backend() else None
        return known or by_rule(recurrence, platform)

    def _known(self, recurrence: Recurrence) -> Method | None:
        if self.methods is None:
            # None and () differ: () says that nothing was chosen, and what is kept on this machine is not read.
            measured = kept_choice(recurrence, gradient=self.gradient)
        else:
            measured = given_choice(self.methods, recurrence)
        # Either was found to serve the recurrence before it is returned here.
        return measured or shipped_choice(recurrence)


def by_rule(recurrence: Recurrence, platform: str) -> Method:
    """Returns the method for a recurrence of which nothing is known."""
    cell, method = recurrence.cell, None
    if fused_by_rule(platform) and fuses(cell):
        method = Fused()
    elif scans_in_order(platform) and is_linear(cell):
        method = Associative()
    elif has_memory(cell):
        method = Chunkwise()
    # A cell of such a kind may read what these do not take.
    return method if method is not None and can_serve(method, recurrence) else Scan()


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
    platform = platform or jax.default_backend()

    def unrolled(recording, params, xs):
        params = cell.init(jax.random.key(0), shape[-1]) if params is None else params
        state = cell.start(params, as_batch_size(shape[1:-1]), xs.dtype)
        return recording.over(CellSequence(cell, params, xs, state, None, None, None, None))

    recording = Recording([])
    jax.eval_shape(functools.partial(unrolled, recording), params, jax.ShapeDtypeStruct(shape, jnp.float32))
    return [Auto().method_for(recurrence, platform) for recurrence in recording.recurrences]


# Equal to itself alone: `unroll` is compiled with its method as a static argument, and a program that was traced for
# another recording would be taken as it is, with nothing recorded.
@dataclasses.dataclass(frozen=True, eq=False)
class Recording(Method):
    """Records each recurrence, as shapes, and runs it by `Scan`, which can run any."""

    recurrences: list[Recurrence]

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        # As shapes, since tracers must not outlive the trace in which they were recorded.
        arrays = (recurrence.params, recurrence.state, recurrence.initial, recurrence.steps, recurrence.xs)
        params, state, initial, steps, xs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays
        )
        self.recurrences.append(recurrence._replace(params=params, state=state, initial=initial, steps=steps, xs=xs))
        return Scan().run(recurrence)


def recurrences_in(function: Callable[..., Any], *arguments: Any) -> list[Recurrence]:
    """Returns, as shapes, each recurrence that a function unrolls by the default method, in the order they are run."""
    recording = Recording([])
    # Inside `eval_shape` nothing is computed; `Scan`, which runs what is recorded, is traced only.
    with choosing(lambda cell: recording):
        jax.eval_shape(function, *arguments)
    return recording.recurrences


@contextlib.contextmanager
def choosing(method_for: Callable[[Cell], Method | None]) -> Iterator[None]:
    """Within this context, the default method of `unroll` is ``method_for(cell)``; if that is None, the outer default.

    It chooses the methods of a whole model without a change to the model's code. A function that is traced within the
    context keeps its methods afterwards.
    """
    outer = _CHOOSING.get()
    # `outer` is bound when the context is entered, so that contexts may lie within each other.
    token = _CHOOSING.set(lambda cell: method_for(cell) or outer(cell))
    try:
        yield
    finally:
        _CHOOSING.reset(token)


def using(methods: Methods) -> contextlib.AbstractContextManager[None]:
    """Within this context, `unroll` takes these methods by default, and for other recurrences those of the rule."""
    return choosing(lambda cell: Auto(methods=methods))


def default_method(cell: Cell) -> Method:
    """Returns the default method of `unroll` for a cell."""
    return _CHOOSING.get()(cell) or Auto()


_CHOOSING: ContextVar[Callable[[Cell], Method | None]] = ContextVar("choosing", default=lambda cell: None)
