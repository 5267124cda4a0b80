"""Recurrences over time, as unrolling methods receive them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from rnnjax.cells.cell import Cell, GatedCell, Key, Params, State


class Steps(NamedTuple):
    """What the steps read, each leaf ``[T, ...]``: the cell's ``z``, and ``[T, *batch]`` truth values that say which
    entries of the batch take the step (`valid`) and which are reset before it (`resets`); None: all, and none."""

    z: Any
    valid: Array | None
    resets: Array | None


class Recurrence(NamedTuple):
    """The step of a cell, to be repeated over `steps` from `state`; resets go back to `initial`.

    `xs`, where given, are the inputs ``[T, *batch, I]`` that the cell's `inputs` made the steps' z from. With `gaps`,
    steps that are not valid may lie anywhere, else behind all that are. With `keeps_states`, every ``y`` comes as a
    pair with the state after its step.
    """

    cell: Cell
    params: Params
    state: State
    initial: State
    steps: Steps
    xs: Array | None = None
    gaps: bool | None = False
    keeps_states: bool | None = False

    @property
    def length(self) -> int:
        """Number T of steps."""
        return jax.tree.leaves(self.steps)[0].shape[0]

    def step(self, state: State, step: Steps) -> tuple[State, Any]:
        """Takes one step: resets where asked, then leaves the state as it was where the step is not valid."""
        before = state if step.resets is None else select(step.resets, self.initial, state)
        after, y = self.cell.step(self.params, before, step.z)
        after = after if step.valid is None else select(step.valid, after, state)
        return after, (y, after) if self.keeps_states else y


class Pass(NamedTuple):
    """A whole cell over a time-major sequence ``xs [T, *batch, I]``, before it is taken apart into recurrences.

    `valid` and `resets` are as in `Steps`; `initial` is None where there are no resets; `key` is that of `unroll`;
    `gaps` and `keeps_states` are as in `Recurrence`.
    """

    cell: Cell
    params: Params
    xs: Array
    state: State
    initial: State
    valid: Array | None
    resets: Array | None
    key: Key
    gaps: bool = False
    keeps_states: bool = False


@runtime_checkable
class Method(Protocol):
    """A way to unroll: a hashable object that runs a `Recurrence`."""

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the state after the last step."""
        ...


@runtime_checkable
class PassMethod(Method, Protocol):
    """A method that takes a whole cell at once, where others take the recurrences it is made of one by one."""

    def run_pass(self, given: Pass) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the state after the last step."""
        ...


def select(where: Bool[Array, " *B"], yes: Any, no: Any) -> Any:
    """Returns the leaves of `yes` for the entries of the batch where it holds, of `no` elsewhere."""

    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(where.reshape(where.shape + (1,) * (a.ndim - where.ndim)), a, b)

    return jax.tree.map(leaf, yes, no)


def adds_a_bias(given: Recurrence) -> bool:
    """Returns whether z is known to be ``xs @ w_x`` plus something that does not depend on `xs`.

    Each step's z is then made from its own inputs alone, so that they can be made wherever they are read.
    """
    cell = given.cell
    if given.xs is None or not isinstance(cell, GatedCell):
        return False
    if (type(cell).inputs, type(cell).project) != (GatedCell.inputs, GatedCell.project):
        return False
    zs = jax.eval_shape(cell.project, given.params.w_x, given.xs)
    jaxpr = jax.make_jaxpr(cell.gate_inputs)(given.params, zs).jaxpr
    readers = [equation for equation in jaxpr.eqns if jaxpr.invars[-1] in equation.invars]
    if not readers:  # a cell without a bias
        return jaxpr.outvars == jaxpr.invars[-1:]
    return len(readers) == 1 and readers[0].primitive.name == "add" and readers[0].outvars == jaxpr.outvars
