"""What can be taken a step at a time with its state held outside: a cell, or a Flax module of cells."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from jaxtyping import Array, Float, Shaped

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.cells.checks import check_floating, check_params
from rnnjax.cells.told_apart import check_told_apart
from rnnjax.cells.traits import attends


class Stepped(Protocol):
    """The contract; hashable, since it is static under `jax.jit`."""

    def check(self, params: Params, x: Shaped[Array, "1 ..."]) -> None:
        """Raises `ValueError` or `TypeError`, in one sentence, unless one step can be taken with this input."""

    def start(self, params: Params, xs: Shaped[Array, "K ..."]) -> State:
        """Returns the states before the first step, each leaf ``[K, ...]``."""

    def step(self, params: Params, states: State, xs: Shaped[Array, "K ..."]) -> tuple[State, Any]:
        """Returns the new states, and the outputs, each leaf ``[K, ...]``."""
        ...


@dataclasses.dataclass(frozen=True)
class SteppedCell:
    """A cell, whose inputs are ``[K, I]``."""

    cell: Cell

    def check(self, params: Params, x: Float[Array, "1 ..."]) -> None:
        check_told_apart(self.cell)
        check_floating("an input", x)
        if x.ndim != 2:
            raise ValueError(f"an input must have shape [I], got {list(x.shape[1:])}")
        check_params(self.cell, params, x.shape[-1])

    def start(self, params: Params, xs: Float[Array, "K I"]) -> State:
        return self.cell.start(params, len(xs), xs.dtype)

    def step(self, params: Params, states: State, xs: Float[Array, "K I"]) -> tuple[State, Float[Array, "K O"]]:
        return self.cell.whole_step(params, states, xs)


def as_stepped(model: Any) -> Stepped:
    """Returns a cell or a Flax Linen module as what can be taken a step at a time.

    Raises:
      TypeError: for anything else; ValueError: for a cell that attends to a memory, which each session would need.
    """
    if isinstance(model, Cell):
        if any(attends(part) for part in model.parts()):
            raise ValueError(f"{model!r} attends to a memory, of which each session would need its own; give another")
        return SteppedCell(model)
    from rnnjax.nn.stepwise import SteppedModule, is_module

    if not is_module(model):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be a cell or a Flax Linen module, got {got}")
    return SteppedModule(model)
