"""The contract of an unrolling method, and the recurrences over time that methods are given."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.unrolling.cutting import Taken, since_reset, step_before_reset
from rnnjax.unrolling.selecting import select, zeros_where
from rnnjax.unrolling.varying import vary, varying_axes


class Steps(NamedTuple):
    """What the steps read, each leaf ``[T, ...]``: the cell's ``z``, and ``[T, *batch]`` truth values that say which
    entries of the batch take the step (`valid`; None: all), which are reset before it (`resets`; None: none), and which
    are reset at some time after it (`followed`)."""

    z: Any
    valid: Array | None
    resets: Array | None
    followed: Array | None = None


class Recurrence(NamedTuple):
    """The step of a cell, to be repeated over `steps` from `state`; resets go back to `initial`.

    `xs`, where they are there, are the inputs ``[T, *batch, I]`` that the cell's `inputs` made the steps' z from. With
    `gaps`, steps that are not valid may lie anywhere, else behind all that are. With `keeps_states`, every ``y`` comes
    as a pair with the state after its step.
    """

    cell: Cell
    params: Params
    state: State
    initial: State
    steps: Steps
    xs: Array | None = None
    gaps: bool = False
    keeps_states: bool = False

    @property
    def length(self) -> int:
        """Number T of steps."""
        return jax.tree.leaves(self.steps)[0].shape[0]

    def step(self, state: State, step: Steps) -> tuple[State, Any]:
        """Takes one step: resets where asked, then leaves the state as it was where the step is not valid."""
        before = state if step.resets is None else select(step.resets, self.initial, state)
        if step.followed is None:
            after, y = self.cell.step(self.params, before, step.z)
        else:
            after, y = step_before_reset(self.cell, Taken(self.params, before, step.z, self.initial, step.followed))
        after = after if step.valid is None else select(step.valid, after, state)
        return after, (y, after) if self.keeps_states else y


class CellSequence(NamedTuple):
    """A whole cell over a time-major sequence ``xs [T, *batch, I]``, before it is taken apart into recurrences.

    `valid`, `resets` and `followed` are as in `Steps`; `initial` is None where there are no resets; `key` is that of
    `unroll`; `gaps` and `keeps_states` are as in `Recurrence`.
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
    followed: Array | None = None


class Method:
    """A way to unroll: derive from it as a frozen dataclass, since a method is static under `jax.jit`.

    Most define `run`, and `why_not` if there is a recurrence that they cannot run. One that takes a whole cell at once
    overrides `over` in their place.
    """

    keeps_states: ClassVar[bool] = False  # whether `run` returns what `Recurrence.step` does, states of all steps too

    def why_not(self, recurrence: Recurrence) -> str | None:
        """Returns in one sentence why the method cannot run a recurrence, with what to do; None where it can."""
        return None

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the state after the last step."""
        raise NotImplementedError(f"{type(self).__name__} must define run, or over if it takes whole cells")

    def serve(self, recurrence: Recurrence) -> tuple[Any, State]:
        """Returns what `run` does.

        Raises:
          ValueError: with what `why_not` says, if the method cannot serve.
        """
        reason = self.why_not(recurrence)
        if reason is not None:
            raise ValueError(reason)
        return self.run(recurrence)

    def over(self, sequence: CellSequence) -> tuple[Array, State]:
        """Returns ``ys [T, *batch, O]`` and the last state of a whole cell: each recurrence that it is made of, served.

        Raises:
          ValueError: if the method cannot serve one of them.
        """

        cut = _Cut(sequence)

        def recur(cell, params, zs, state, initial, xs=None) -> tuple[Any, State]:
            steps = Steps(zs, sequence.valid, sequence.resets, sequence.followed)
            state, initial = varying_like(steps, params, state, initial)
            recurrence = Recurrence(cell, params, state, initial, steps, xs, sequence.gaps, sequence.keeps_states)
            outputs, last = self.serve(recurrence)
            # A cell hands on the state of its recurrences as it is, so all states of them are all states of it.
            ys, states = outputs if sequence.keeps_states else (outputs, last)
            return cut.finite(ys), states

        cell, params, xs, state, initial = sequence[:5]
        ys, state = cell.over_time(recur, params, cut.finite(xs), state, initial, sequence.key)
        return cut.marked(ys), state


class _Cut:
    """What is not finite before a reset, among the inputs of a cell's parts and outputs: zero within, NaN in the end.

    A layer above multiplies its inputs by weights, whose gradient would be zero times what is not finite.
    """

    def __init__(self, sequence: CellSequence):
        self._resets, self._followed = sequence.resets, sequence.followed
        self._bad: list[Array] = []

    def finite(self, ys: Array) -> Array:
        """Returns a sequence with zeros at the steps whose numbers are not finite; `marked` knows which these are."""
        if self._followed is None:
            return ys
        self._bad.append(self._followed & ~jnp.isfinite(ys).all(-1))
        return zeros_where(self._bad[-1], ys)

    def marked(self, ys: Array) -> Array:
        """Returns outputs that are NaN from the first of these steps on, up to the reset."""
        if self._resets is None or not self._bad:
            return ys
        lost = since_reset(jnp.stack(self._bad).any(0), jnp.zeros_like(self._resets[0]), self._resets)
        return select(lost, jnp.full_like(ys, jnp.nan), ys)


def varying_like(steps: Steps, params: Params, *states: State) -> list[State]:
    """Returns states that vary over every mesh axis that the steps and the parameters do.

    Inside `jax.shard_map` a loop's state must have one type throughout; elsewhere this changes nothing.
    """
    return vary(list(states), varying_axes((steps, params, states)))
