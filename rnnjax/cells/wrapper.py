"""A cell around another, which says once what it does; its steps and its sequences follow from that."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, Recur, State
from rnnjax.cells.sizes import Size


class WrapperZs(NamedTuple):
    """Inputs of a wrapper's step: the wrapped cell's ``z``, and what the wrapper drew for the step."""

    z: Any
    drawn: Any


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """A cell around another, the same as it in everything that a subclass does not change.

    A subclass says what it does in any of these, and the forms of a cell follow, step by step and over time:

    - `inner`: which part of the parameters is the wrapped cell's;
    - `draw`: what all steps need besides (masks, say), made at once, and the key that is left for the wrapped cell;
    - `before`: what it does to the inputs, and `after`: to the outputs;
    - `weights`: what it does to the wrapped cell's parameters for a whole sequence;
    - `update`: what it does to the new state before the output is read from it, and `hand_on`: after that.

    Sequences keep to the wrapped cell's own recurrence, as fast as that is, unless the state is changed: see `in_time`.

    Raises:
      TypeError: for something that is not a cell; for an `update` around a cell that makes state and output at once.
    """

    cell: Cell

    def __post_init__(self):
        name = type(self).__name__
        if not isinstance(self.cell, Cell):
            raise TypeError(f"{name} wraps a cell, got {self.cell!r}")
        if self._says("update") and not self.cell.advances:
            raise TypeError(
                f"{name} changes the new state before the output is read from it, which {self.cell!r} does in one "
                f"step; put {name} inside, around each cell that has `advance` and `read`, such as LSTM(128)"
            )

    def inner(self, params: Params) -> Params:
        """Returns the wrapped cell's part of the parameters."""
        return params

    def draw(self, params: Params, xs: Array, key: Key) -> tuple[Any, Key]:
        """Returns what the steps need besides, each leaf ``[T, ...]``, and the wrapped cell's key (None: evaluation).

        `before` is given all of it, `update` and `hand_on` that of one step, `after` and `weights` either.
        """
        return None, key

    def before(self, params: Params, xs: Array, drawn: Any) -> Array:
        """Returns the inputs of the wrapped cell, ``[T, *batch, I]``."""
        return xs

    def after(self, params: Params, ys: Array, drawn: Any) -> Array:
        """Returns the outputs from those of the wrapped cell, of one step or of all steps."""
        return ys

    def weights(self, params: Params, drawn: Any) -> Params:
        """Returns the parameters that the wrapped cell's steps are taken with, from its own: the same at every step."""
        return params

    def update(self, params: Params, old: State, new: State, drawn: Any) -> State:
        """Returns the state that the output is read from, given the one before the step and the cell's new one."""
        return new

    def hand_on(self, params: Params, state: State, drawn: Any) -> State:
        """Returns the state that the next step starts from, when the output has been read."""
        return state

    def in_time(self, key: Key) -> bool:
        """Whether the wrapped cell's own recurrence is not enough, since each step does more than the wrapped cell's.

        So it is where the state is changed. A subclass that does so only at times says when.
        """
        return self._says("inputs", "step", "advance", "read", "outputs", "update", "hand_on")

    @property
    def reads_inputs(self) -> bool:
        """Whether it does something with the inputs, which cannot be looked up then where they are one-hot.

        A subclass whose `draw` reads no more of them than their batch and time axes says that it does not.
        """
        return self._says("draw", "before", "inputs", "over_time")

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    @property
    def stochastic(self) -> bool:
        return self.cell.stochastic

    @property
    def advances(self) -> bool:
        return self.cell.advances and not self._says("step", "hand_on")

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        return self.cell.init(key, input_size)

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_size, dtype)

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        return self.cell.start(self.inner(params), batch_size, dtype)

    def inputs(self, params: Params, xs: Array, *, key: Key = None) -> Any:
        drawn, key = self.draw(params, xs, key)
        zs = self.cell.inputs(self.inner(params), self.before(params, xs, drawn), key=key)
        return WrapperZs(zs, drawn) if self._says("draw") else zs

    def step(self, params: Params, state: State, z: Any) -> tuple[State, Array]:
        within, drawn = self._parts(z)
        if self._says("update", "advance", "read"):
            state = self.advance(params, state, z)
            y = self.read(params, state, z)
        else:
            state, y = self.cell.step(self._within(params, drawn), state, within)
            y = self._after_step(params, y, drawn)
        return self.hand_on(params, state, drawn), y

    def advance(self, params: Params, state: State, z: Any) -> State:
        within, drawn = self._parts(z)
        new = self.cell.advance(self._within(params, drawn), state, within)
        return self.update(params, state, new, drawn)

    def read(self, params: Params, state: State, z: Any) -> Array:
        within, drawn = self._parts(z)
        return self._after_step(params, self.cell.read(self._within(params, drawn), state, within), drawn)

    def outputs(self, params: Params, ys: Array) -> Array:
        return ys if self._ends_in_step else self.after(params, self.cell.outputs(self.inner(params), ys), None)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        if self.in_time(key):
            return super().over_time(recur, params, xs, state, initial, key)
        drawn, key = self.draw(params, xs, key)
        xs = self.before(params, xs, drawn)
        ys, state = self.cell.over_time(recur, self._within(params, drawn), xs, state, initial, key)
        return self.after(params, ys, drawn), state

    def _within(self, params: Params, drawn: Any) -> Params:
        return self.weights(self.inner(params), drawn)

    def _parts(self, z: Any) -> tuple[Any, Any]:
        """Returns the wrapped cell's ``z``, and what was drawn for the step."""
        return (z.z, z.drawn) if self._says("draw") else (z, None)

    @property
    def _ends_in_step(self) -> bool:
        """Whether the outputs need what was drawn for their step; otherwise they wait until all steps are taken."""
        return self._says("draw") and self._says("after")

    def _after_step(self, params: Params, y: Array, drawn: Any) -> Array:
        return self.after(params, self.cell.outputs(self.inner(params), y), drawn) if self._ends_in_step else y

    def _says(self, *names: str) -> bool:
        """Returns whether a subclass says any of these itself."""
        return any(getattr(type(self), name) is not getattr(Wrapper, name) for name in names)
