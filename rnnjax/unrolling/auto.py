"""The choice of a method, for each recurrence by itself: everything that decides it is in this room."""

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

from rnnjax.backend import fused_by_rule
from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.sizes import as_batch_size
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.known import Methods, given_choice, kept_choice, shipped_choice
from rnnjax.unrolling.recurrence import CellSequence, Method, Recurrence
from rnnjax.unrolling.scan import Scan


@dataclasses.dataclass(frozen=True)
class Auto(Method):
    """For each recurrence the method that is known to be fastest: by a measurement, by a table of devices, by a rule.

    `rnnjax.tune` measures a recurrence here, which then holds for that one exactly (RNNJAX_TUNE=0 leaves it unread).
    Next comes the table of devices that the library ships, then the rule: on a CPU `Fused` for gated cells, `Scan` for
    everything else. A stack of a gated layer and one that is not gets a method each. It is what `unroll` takes where it
    is given no method. What is compiled already stays as it is.

    Attributes:
      gradient: whether the time counts that a recurrence takes with its gradient, or forward alone.
      methods: methods by `rnnjax.unrolling.known.recurrence_key`, in place of what was measured here; ``()`` for none.
    """

    keeps_states: ClassVar[bool] = True

    gradient: bool = True
    methods: Methods | None = None

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        return self.method_for(recurrence, jax.default_backend()).run(recurrence)

    def method_for(self, recurrence: Recurrence, platform: str) -> Method:
        """Returns the method for a recurrence on "cpu", "gpu" or "tpu"; it can serve."""
        if recurrence.keeps_states:
            return Scan()
        known = self._known(recurrence) if platform == jax.default_backend() else None
        return known or by_rule(recurrence, platform)

    def _known(self, recurrence: Recurrence) -> Method | None:
        if self.methods is None:
            measured = kept_choice(recurrence, gradient=self.gradient)
        else:
            measured = given_choice(self.methods, recurrence)
        return measured or shipped_choice(recurrence)


def by_rule(recurrence: Recurrence, platform: str) -> Method:
    """Returns the method for a recurrence of which nothing is known."""
    return Fused() if fused_by_rule(platform) and fuses(recurrence.cell) else Scan()


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
    platform = platform or jax.default_backend()

    def unrolled(listening, params, xs):
        params = cell.init(jax.random.key(0), shape[-1]) if params is None else params
        state = cell.start(params, as_batch_size(shape[1:-1]), xs.dtype)
        return listening.over(CellSequence(cell, params, xs, state, None, None, None, None))

    listening = Listening([])
    jax.eval_shape(functools.partial(unrolled, listening), params, jax.ShapeDtypeStruct(shape, jnp.float32))
    return [Auto().method_for(recurrence, platform) for recurrence in listening.recurrences]


@dataclasses.dataclass(frozen=True, eq=False)
class Listening(Method):
    """Notes each recurrence that passes by, as shapes, and has the loop run it that takes any."""

    recurrences: list[Recurrence]

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        arrays = (recurrence.params, recurrence.state, recurrence.initial, recurrence.steps, recurrence.xs)
        params, state, initial, steps, xs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays
        )
        self.recurrences.append(recurrence._replace(params=params, state=state, initial=initial, steps=steps, xs=xs))
        return Scan().run(recurrence)


def recurrences_in(function: Callable[..., Any], *arguments: Any) -> list[Recurrence]:
    """Returns, as shapes, each recurrence that a function unrolls without naming a method, in that order."""
    listening = Listening([])
    with choosing(lambda cell: listening):
        jax.eval_shape(function, *arguments)
    return listening.recurrences


@contextlib.contextmanager
def choosing(method_for: Callable[[Cell], Method | None]) -> Iterator[None]:
    """Within it, `unroll` without a method takes ``method_for(cell)``; where that is None, what it took outside of it.

    So a whole model is unrolled in some way without its own code knowing of it. What is traced within stays so.
    """
    outer = _CHOOSING.get()
    token = _CHOOSING.set(lambda cell: method_for(cell) or outer(cell))
    try:
        yield
    finally:
        _CHOOSING.reset(token)


def using(methods: Methods) -> contextlib.AbstractContextManager[None]:
    """Within it, `unroll` without a method takes these, by `recurrence_key`, else the rule's: nothing of the cache."""
    return choosing(lambda cell: Auto(methods=methods))


def default_method(cell: Cell) -> Method:
    """Returns what `unroll` takes for a cell where it is given no method."""
    return _CHOOSING.get()(cell) or Auto()


_CHOOSING: ContextVar[Callable[[Cell], Method | None]] = ContextVar("choosing", default=lambda cell: None)
