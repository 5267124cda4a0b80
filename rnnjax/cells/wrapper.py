"""The base of cells around another cell: what a wrapper changes is said once, for single steps and for sequences."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, Recur, State
from rnnjax.cells.sizes import Size


class WrapperZs(NamedTuple):
    """What a wrapper's steps read: the wrapped cell's ``z``, and what the wrapper's `draw` returned."""

    z: Any
    drawn: Any


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """A cell around another, equal to it in everything that a subclass does not override.

    A subclass overrides any of these, from which the step and the computation of whole sequences follow:

    - `inner`: the wrapped cell's part of the parameters;
    - `draw`: what all steps need in addition, such as masks, and the key for the wrapped cell;
    - `before` and `after`: changes to the inputs and to the outputs;
    - `weights`: a change to the wrapped cell's parameters, the same at every step;
    - `update`: a change to the new state before the output is read from it;
    - `hand_on`: a change to the new state after the output was read.

    A sequence is unrolled by the wrapped cell's own recurrence, and so as fast, unless the wrapper changes the state
    (see `in_time`).

    Raises:
      TypeError: for something that is not a cell; for an `update` around a cell without `advance` and `read`.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Scaled(rnnjax.Wrapper):
      ...     factor: float
      ...     def before(self, params, xs, drawn):
      ...         return self.factor * xs
      >>> cell = Scaled(rnnjax.GRU(8), 0.1)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """

    cell: Cell

    def __post_init__(self):
        name = type(self).__name__
        if not isinstance(self.cell, Cell):
            raise TypeError(f"{name} wraps a cell, got {self.cell!r}")
        if self._overrides("update") and not self.cell.advances:
            raise TypeError(
                f"{name} changes the new state before the output is read from it, and so needs a cell with `advance` "
                f"and `read`, such as LSTM(128), got {self.cell!r}; put {name} around each cell inside it instead"
            )

    def inner(self, params: Params) -> Params:
        """Returns the wrapped cell's part of the parameters."""
        return params

    def draw(self, params: Params, xs: Array, key: Key) -> tuple[Any, Key]:
        """Returns what the steps need in addition, each leaf ``[T, ...]``, and the key for the wrapped cell.

        `before` is called with what is drawn for all steps, `update` and `hand_on` with what is drawn for one step, and
        `after` and `weights` with either.

        Args:
          params: the wrapper's parameters.
          xs: inputs ``[T, *batch, I]``.
          key: PRNG key; None means evaluation.
        """
        return None, key

    def before(self, params: Params, xs: Array, drawn: Any) -> Array:
        """Returns the inputs of the wrapped cell, ``[T, *batch, I]``."""
        return xs

    def after(self, params: Params, ys: Array, drawn: Any) -> Array:
        """Returns the outputs from those of the wrapped cell, either of one step or of all steps."""
        return ys

    def weights(self, params: Params, drawn: Any) -> Params:
        """Returns the parameters for the wrapped cell's steps from the wrapped cell's own, the same at every step."""
        return params

    def update(self, params: Params, old: State, new: State, drawn: Any) -> State:
        """Returns the state that the output is read from.

        Args:
          params: the wrapper's parameters.
          old: the state before the step, each leaf ``[*batch, ...]``.
          new: the wrapped cell's new state.
          drawn: what `draw` returned for this step.
        """
        return new

    def hand_on(self, params: Params, state: State, drawn: Any) -> State:
        """Returns the state that the next step starts from, after the output was read."""
        return state

    def in_time(self, key: Key) -> bool:
        """Whether the wrapper must take part in every step, so that the wrapped cell's own recurrence is not enough.

        That is so if the wrapper changes the state. A subclass that does not always change it overrides this.
        """
        return self._overrides("inputs", "step", "advance", "read", "outputs", "update", "hand_on")

    @property
    def reads_inputs(self) -> bool:
        """Whether it does something with the inputs, which cannot be looked up then where they are one-hot.

        A subclass whose `draw` reads no more of them than their batch and time axes says that it does not.
        """
        return self._overrides("draw", "before", "inputs", "over_time")

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    @property
    def stochastic(self) -> bool:
        return self.cell.stochastic

    @property
    def advances(self) -> bool:
        return self.cell.advances and not self._overrides("step", "hand_on")

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        return self.cell.init(key, input_size)

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_size, dtype)

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        return self.cell.start(self.inner(params), batch_size, dtype)

    def inputs(self, params: Params, xs: Array, *, key: Key = None) -> Any:
        drawn, key = self.draw(params, xs, key)
        zs = self.cell.inputs(self.inner(params), self.before(params, xs, drawn), key=key)
        return WrapperZs(zs, drawn) if self._overrides("draw") else zs

    def step(self, params: Params, state: State, z: Any) -> tuple[State, Array]:
        cell_z, drawn = self._split(z)
        if self._overrides("update", "advance", "read"):
            state = self.advance(params, state, z)
            y = self.read(params, state, z)
        else:
            # The wrapped cell need not have `advance` and `read` here.
            state, y = self.cell.step(self._cell_params(params, drawn), state, cell_z)
            y = self._after_in_step(params, y, drawn)
        return self.hand_on(params, state, drawn), y

    def advance(self, params: Params, state: State, z: Any) -> State:
        cell_z, drawn = self._split(z)
        new = self.cell.advance(self._cell_params(params, drawn), state, cell_z)
        return self.update(params, state, new, drawn)

    def read(self, params: Params, state: State, z: Any) -> Array:
        cell_z, drawn = self._split(z)
        y = self.cell.read(self._cell_params(params, drawn), state, cell_z)
        return self._after_in_step(params, y, drawn)

    def outputs(self, params: Params, ys: Array) -> Array:
        if self._finishes_in_step:
            return ys
        return self.after(params, self.cell.outputs(self.inner(params), ys), None)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        if self.in_time(key):
            return super().over_time(recur, params, xs, state, initial, key)
        drawn, key = self.draw(params, xs, key)
        xs = self.before(params, xs, drawn)
        ys, state = self.cell.over_time(recur, self._cell_params(params, drawn), xs, state, initial, key)
        return self.after(params, ys, drawn), state

    def _cell_params(self, params: Params, drawn: Any) -> Params:
        """Returns the parameters for the wrapped cell's steps."""
        return self.weights(self.inner(params), drawn)

    def _split(self, z: Any) -> tuple[Any, Any]:
        """Returns the wrapped cell's ``z``, and what was drawn for the step."""
        return (z.z, z.drawn) if self._overrides("draw") else (z, None)

    @property
    def _finishes_in_step(self) -> bool:
        """Whether `after` needs what was drawn for each step; otherwise `outputs` applies it to all steps at once."""
        return self._overrides("draw") and self._overrides("after")

    def _after_in_step(self, params: Params, y: Array, drawn: Any) -> Array:
        """Returns a step's output: the final one if `after` is applied in the step, else the wrapped cell's ``y``."""
        if not self._finishes_in_step:
            return y
        return self.after(params, self.cell.outputs(self.inner(params), y), drawn)

    def _overrides(self, *names: str) -> bool:
        """Returns whether the subclass overrides any of these methods."""
        return any(getattr(type(self), name) is not getattr(Wrapper, name) for name in names)
