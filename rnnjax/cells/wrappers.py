"""Cells made of other cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, Recur, State
from rnnjax.cells.checks import check_rates
from rnnjax.cells.initializers import Initializer, initializer
from rnnjax.cells.projecting import keep_dtypes
from rnnjax.cells.randomness import TimedKey, dropout_mask, keep_mask, scaled, split, timed
from rnnjax.cells.sizes import Size, as_batch_size, keep_sizes
from rnnjax.cells.wrapper import Wrapper


class StackZs(NamedTuple):
    """What a stack's steps read: the ``z`` of the first layer, and the keys of the others (None in evaluation)."""

    first: Any
    keys: TimedKey | None


@dataclasses.dataclass(frozen=True)
class Stack(Cell):
    """Cells on top of each other, each reading the outputs of the one below.

    Parameters and states are tuples with an entry for each layer. `rnnjax.unroll` unrolls it layer by layer.

    Attributes:
      cells: the cells, from the lowest layer to the highest.

    Raises:
      ValueError: for no cells.
      TypeError: for something that is not a cell.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.LSTM(8), rnnjax.GRU(4)])
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, (lstm_state, gru_state) = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, lstm_state.h.shape
      ((2, 5, 4), (2, 8))
    """

    cells: Sequence[Cell]

    def __post_init__(self):
        if isinstance(self.cells, Cell):
            raise TypeError(f"Stack takes a list of cells, got {self.cells!r}; write Stack([{self.cells!r}])")
        object.__setattr__(self, "cells", tuple(self.cells))
        if not self.cells:
            raise ValueError("Stack needs at least one cell, got none")
        for cell in self.cells:
            if not isinstance(cell, Cell):
                raise TypeError(f"Stack is made of cells, got {cell!r}")

    @property
    def output_size(self) -> int:
        return self.cells[-1].output_size

    @property
    def stochastic(self) -> bool:
        return any(cell.stochastic for cell in self.cells)

    def init(self, key: PRNGKeyArray, input_size: Size) -> tuple[Params, ...]:
        sizes = [input_size, *(cell.output_size for cell in self.cells)]
        keys = jax.random.split(key, len(self.cells))
        return tuple(cell.init(k, size) for cell, k, size in zip(self.cells, keys, sizes))

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> tuple[State, ...]:
        return tuple(cell.initial_state(batch_size, dtype) for cell in self.cells)

    def start(self, params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> tuple[State, ...]:
        return tuple(cell.start(p, batch_size, dtype) for cell, p in zip(self.cells, params))

    def inputs(self, params, xs: Array, *, key: Key = None) -> StackZs:
        first, *rest = split(key, len(self.cells))
        return StackZs(self.cells[0].inputs(params[0], xs, key=first), _keys_by_time(rest, xs.shape[0]))

    def step(self, params, state, z: StackZs) -> tuple[tuple[State, ...], Array]:
        # The inputs of the first layer are known before the loop; those of the others only here.
        after, y = self.cells[0].step(params[0], state[0], z.first)
        y = self.cells[0].outputs(params[0], y)
        states = [after]
        for layer in range(1, len(self.cells)):
            key = None if z.keys is None else TimedKey(z.keys.key[layer - 1], z.keys.time[None])
            after, y = self.cells[layer].whole_step(params[layer], state[layer], y, key=key)
            states.append(after)
        return tuple(states), y

    def over_time(self, recur: Recur, params, xs: Array, state, initial, key: Key):
        keys = split(key, len(self.cells))
        states = []
        for layer, cell in enumerate(self.cells):
            reset_to = None if initial is None else initial[layer]
            xs, last = cell.over_time(recur, params[layer], xs, state[layer], reset_to, keys[layer])
            states.append(last)
        return xs, tuple(states)


def _keys_by_time(keys: list[Key], length: int) -> TimedKey | None:
    """Returns the keys of several layers as ``key [T, layers]`` with their time steps; None if there are none."""
    timed_keys = [timed(key, length) for key in keys if key is not None]
    if not timed_keys:
        return None
    stacked = jnp.stack([key.key for key in timed_keys])
    return TimedKey(jnp.broadcast_to(stacked, (length, *stacked.shape)), timed_keys[0].time)


class DropoutMasks(NamedTuple):
    """Masks of the inputs and outputs that are kept, and factors of every hidden state, each ``[T, *batch, N]``.

    None where nothing is dropped.
    """

    input: Array | None
    state: list[Array] | None
    output: Array | None


@dataclasses.dataclass(frozen=True)
class Dropout(Wrapper):
    """Dropout of a cell's inputs, state and outputs, as in TensorFlow's `DropoutWrapper`; active only with a key.

    Units that are kept are scaled by ``1 / (1 - rate)``. State dropout acts on the hidden state ``h`` that goes to the
    next step, not on the output, and not on other parts of the state, such as an LSTM's ``c``.

    Attributes:
      input_rate, state_rate, output_rate: probability of dropping a unit, each in [0, 1).
      variational: whether the mask of a sequence is the same at every step (Gal and Ghahramani, 2016), not drawn anew.

    Raises:
      ValueError: for a rate outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Dropout(rnnjax.LSTM(8), input_rate=0.2, output_rate=0.5)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> xs = jnp.ones((2, 5, 3))
      >>> ys, state = rnnjax.unroll(cell, params, xs, key=jax.random.key(1))  # training
      >>> ys, state = rnnjax.unroll(cell, params, xs)  # evaluation: nothing is dropped
      >>> ys.shape
      (2, 5, 8)
    """

    _: dataclasses.KW_ONLY
    input_rate: float = 0.0
    state_rate: float = 0.0
    output_rate: float = 0.0
    variational: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_rates(self, "input_rate", "state_rate", "output_rate")

    @property
    def stochastic(self) -> bool:
        return bool(self.input_rate or self.state_rate or self.output_rate) or self.cell.stochastic

    @property
    def advances(self) -> bool:
        return self.cell.advances and not self.state_rate

    @property
    def reads_inputs(self) -> bool:
        return bool(self.input_rate)

    def in_time(self, key: Key) -> bool:
        return bool(self.state_rate) and key is not None

    def draw(self, params: Params, xs: Array, key: Key) -> tuple[DropoutMasks, Key]:
        k_cell, k_input, k_state, k_output = split(key, 4)
        inputs = self._mask(k_input, self.input_rate, xs.shape)
        outputs = self._mask(k_output, self.output_rate, (*xs.shape[:-1], self.output_size))
        return DropoutMasks(inputs, self._state_factors(k_state, xs), outputs), k_cell

    def before(self, params: Params, xs: Array, drawn: DropoutMasks) -> Array:
        return _drop(xs, drawn.input, self.input_rate)

    def after(self, params: Params, ys: Array, drawn: DropoutMasks) -> Array:
        return _drop(ys, drawn.output, self.output_rate)

    def hand_on(self, params: Params, state: State, drawn: DropoutMasks) -> State:
        if drawn.state is None:
            return state
        factors = iter(drawn.state)
        return _map_hidden(lambda h: h * next(factors).astype(h.dtype), state)

    def _mask(self, key: Key, rate: float, shape: tuple[int, ...]) -> Array | None:
        """Returns which units are kept; None for all."""
        if key is None or not rate:
            return None
        return keep_mask(key, rate, shape, variational=self.variational)

    def _state_factors(self, key: Key, xs: Array) -> list[Array] | None:
        """Returns the factors of each hidden state, in the order of `_map_hidden`; None if no state is dropped."""
        if key is None or not self.state_rate:
            return None
        state = jax.eval_shape(lambda: self.cell.initial_state(as_batch_size(xs.shape[1:-1]), xs.dtype))
        hidden = []
        _map_hidden(hidden.append, state)
        if not hidden:
            raise ValueError(
                f"state_rate={self.state_rate} needs a state with a field h; that of {self.cell!r} has none"
            )
        return [
            dropout_mask(k, self.state_rate, (xs.shape[0], *h.shape), h.dtype, variational=self.variational)
            for k, h in zip(split(key, len(hidden)), hidden)
        ]


def _drop(xs: Array, mask: Array | None, rate: float) -> Array:
    """Returns `xs` with units outside of the mask set to zero and the others scaled; unchanged without a mask."""
    return xs if mask is None else xs * scaled(mask, rate, xs.dtype)


def _map_hidden(function: Callable[[Any], Any], state: State) -> State:
    """Returns the state with `function` applied to every field ``h`` in it, however deep."""
    if hasattr(state, "h"):
        return state._replace(h=function(state.h))
    if isinstance(state, tuple):
        parts = [_map_hidden(function, part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


class ProjectParams(NamedTuple):
    """Parameters of the wrapped cell and of the projection, ``w [H, O]`` and ``b [O]``."""

    cell: Any
    w: Array
    b: Array


@dataclasses.dataclass(frozen=True)
class Project(Wrapper):
    """A cell whose outputs go through a dense layer, ``y' = y W + b``; the state is not projected.

    Attributes:
      size: number O of outputs.
      kernel_init: the initialiser of W, a name or a function; b is initialised with zeros.
      param_dtype: type of W and b.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Project(rnnjax.GRU(8), 4)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, state.h.shape
      ((2, 5, 4), (2, 8))
    """

    size: int
    _: dataclasses.KW_ONLY
    kernel_init: str | Initializer = "glorot_uniform"
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        keep_sizes(self, "size")
        initializer(self.kernel_init)
        keep_dtypes(self, "param_dtype")

    @property
    def output_size(self) -> int:
        return self.size

    def init(self, key: PRNGKeyArray, input_size: Size) -> ProjectParams:
        k_cell, k_w = jax.random.split(key)
        w = initializer(self.kernel_init)(k_w, (self.cell.output_size, self.size), self.param_dtype)
        return ProjectParams(self.cell.init(k_cell, input_size), w, jnp.zeros(self.size, self.param_dtype))

    def inner(self, params: ProjectParams) -> Params:
        return params.cell

    def after(self, params: ProjectParams, ys: Array, drawn: Any) -> Array:
        return jnp.tensordot(ys, params.w.astype(ys.dtype), 1) + params.b.astype(ys.dtype)


@dataclasses.dataclass(frozen=True)
class Residual(Wrapper):
    """A cell whose input is added to its output, ``y' = x + y`` (He et al., 2016; Wu et al., 2016).

    Raises:
      ValueError: from `init`, if the sizes of input and output differ.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.GRU(8), rnnjax.Residual(rnnjax.GRU(8))])
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        if input_size != self.output_size:
            raise ValueError(f"Residual needs inputs of the output's size {self.output_size}, got {input_size}")
        return self.cell.init(key, input_size)

    def draw(self, params: Params, xs: Array, key: Key) -> tuple[Array, Key]:
        return xs, key

    def after(self, params: Params, ys: Array, drawn: Array) -> Array:
        return ys + drawn


class LearnedParams(NamedTuple):
    """Parameters of the wrapped cell, and the state that its sequences start from, without batch axes."""

    cell: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class LearnedState(Wrapper):
    """A cell whose initial state is a parameter, which starts as the wrapped cell's initial state.

    It is used if no state is given, and wherever the state is reset. `init` raises `TypeError` for a state with numbers
    that are not floating point, such as a counter.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LearnedState(rnnjax.GRU(8))
      >>> params = cell.init(jax.random.key(0), 3)
      >>> params.state.h.shape
      (8,)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """

    def init(self, key: PRNGKeyArray, input_size: Size) -> LearnedParams:
        params = self.cell.init(key, input_size)
        batch_of_one = self.cell.start(params, 1, jnp.float32)
        types = [str(leaf.dtype) for leaf in jax.tree.leaves(batch_of_one)]
        if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in types):
            of = f"that of {type(self.cell).__name__} has {', '.join(types)}"
            raise TypeError(f"LearnedState learns states of floating-point numbers, and {of}; leave LearnedState out")
        return LearnedParams(params, jax.tree.map(lambda leaf: leaf[0], batch_of_one))

    def start(self, params: LearnedParams, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        shapes = jax.eval_shape(lambda: self.cell.initial_state(batch_size, dtype))
        return jax.tree.map(lambda leaf, to: jnp.broadcast_to(leaf, to.shape).astype(to.dtype), params.state, shapes)

    def inner(self, params: LearnedParams) -> Params:
        return params.cell
