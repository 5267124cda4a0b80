"""Sessions: many sequences of different ages, stepped together."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Shaped

from rnnjax.cells.cell import Params, State
from rnnjax.cells.sizes import Size, check_size
from rnnjax.streams.slots import Slots
from rnnjax.streams.stepped import Stepped, as_stepped
from rnnjax.unrolling.selecting import select

# As many rows as cost a CPU about three single ones, most of which is the call; below it there is one program for all.
_LEAST_WIDTH = 64


class Sessions:
    """Holds the states of many sequences on the device, and takes a step of any of them at once.

    Each session is what `rnnjax.unroll` of its inputs alone would be, in evaluation, whenever they come and whatever
    the others do. A step of k sessions is computed as one batch: of all slots where these are 64 or fewer, and of the
    next power of two of k otherwise, 64 at least; a program is compiled when its size is first needed. Sessions that
    take no part keep their states. All methods are for one thread.

    Args:
      model: a cell; or a Flax Linen module all of whose memory between steps is in `rnnjax.nn.RNN` or `OneHotRNN`.
      params: the cell's parameters, or the module's variables.
      slots: how many sessions can be open at once.

    Raises:
      TypeError: for another model; ValueError: for a cell that attends to a memory, or no slots.

    Example:
      >>> import jax, numpy as np, rnnjax
      >>> cell = rnnjax.LSTM(8)
      >>> sessions = rnnjax.Sessions(cell, cell.init(jax.random.key(0), 3), slots=4)
      >>> ann, bob = sessions.open("ann"), sessions.open("bob")
      >>> first = sessions.step({"ann": np.ones(3, "float32")})
      >>> both = sessions.step({"bob": np.ones(3, "float32"), "ann": np.zeros(3, "float32")})
      >>> bool(np.allclose(both["bob"], first["ann"]))
      True
      >>> sessions.close("ann")
      >>> len(sessions)
      1
    """

    def __init__(self, model: Any, params: Params, slots: Size):
        self._stepped = as_stepped(model)
        self._slots = Slots(check_size("slots", slots))
        self._params = jax.tree.map(jnp.asarray, params)
        self._input: jax.ShapeDtypeStruct | None = None  # what the first step was of
        self._states: State = None

    def __len__(self) -> int:
        """Number of open sessions."""
        return len(self._slots)

    def __iter__(self) -> Iterator[Hashable]:
        """The open sessions, the oldest first."""
        return iter(self._slots)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._slots

    def open(self, name: Hashable | None = None) -> Hashable:
        """Begins a session, and returns its name; None takes a whole number.

        Raises:
          ValueError: if the name is open already, or all slots are taken.
        """
        return self._slots.take(name)

    def close(self, name: Hashable) -> None:
        """Ends a session, whose slot is free for another.

        Raises:
          ValueError: if it is not open.
        """
        self._slots.release(name)

    def state(self, name: Hashable) -> State:
        """Returns a session's state, each leaf without its batch axis, as NumPy arrays; None before its first step.

        Raises:
          ValueError: if it is not open.
        """
        slots = self._slots.of([name])
        if self._slots.fresh(slots)[0]:
            return None
        return jax.tree.map(lambda leaf: np.asarray(leaf[int(slots[0])]), self._states)

    def step(self, inputs: Mapping[Hashable, Shaped[ArrayLike, "..."]]) -> dict[Hashable, Any]:
        """Takes a step of some sessions, and returns the output of each, as NumPy arrays.

        Args:
          inputs: one for each session that takes a step, by its name: ``[I]`` for a cell, what a step of one sequence
            is for a module, such as a token. All inputs, now and later, have one shape and type.

        Raises:
          ValueError: for a session that is not open, or another shape; TypeError: for another type.
        """
        if not inputs:
            return {}
        names = list(inputs)
        slots, rows = self._slots.of(names), list(map(_array, inputs.values()))
        for name, row in zip(names, rows):
            if row.shape != rows[0].shape:
                shapes = f"{list(row.shape)} of session {name!r}, {list(rows[0].shape)} of {names[0]!r}"
                raise ValueError(f"inputs must have one shape, got {shapes}")
        leaves, structure = jax.tree.flatten(self._step(slots, np.stack(rows)))
        leaves = [np.asarray(leaf) for leaf in leaves]
        return {name: structure.unflatten([leaf[row] for leaf in leaves]) for row, name in enumerate(names)}

    def step_batch(self, names: Sequence[Hashable] | Int[np.ndarray, " K"], xs: Shaped[ArrayLike, "K ..."]) -> Any:
        """Takes a step of k sessions, and returns their outputs ``[k, ...]`` on the device, without waiting for them.

        Args:
          names: of the sessions, at least one.
          xs: their inputs, in this order.

        Raises:
          ValueError: for a session that is not open or named twice, or another shape; TypeError: for another type.
        """
        names = names.tolist() if isinstance(names, np.ndarray) else list(names)
        rows = xs if isinstance(xs, jax.Array) else _array(xs)
        if not names or rows.shape[:1] != (len(names),):
            expected = f"one row for each of {len(names)} sessions, one at least"
            raise ValueError(f"xs must have {expected}, got the shape {list(rows.shape)}")
        outputs = self._step(self._slots.of(names), rows)
        return jax.tree.map(lambda leaf: leaf if len(leaf) == len(names) else leaf[: len(names)], outputs)

    def _step(self, slots: Int[np.ndarray, " K"], xs: Shaped[Array | np.ndarray, "K ..."]) -> Any:
        """Returns the outputs of a step ``[W, ...]``, those of the given slots first."""
        xs = self._checked(xs)
        width, count = self._width(len(slots)), len(slots)
        # A spare row is of no slot: what becomes of its state is dropped.
        padded, fresh = np.full(width, self._slots.count, np.int32), np.ones(width, bool)
        padded[:count], fresh[:count] = slots, self._slots.fresh(slots)
        self._states, outputs = _advance(self._stepped, self._params, self._states, padded, fresh, _padded(xs, width))
        self._slots.age(slots)
        return outputs

    def _checked(self, xs: Shaped[Array | np.ndarray, "K ..."]) -> Shaped[Array | np.ndarray, "K ..."]:
        """Returns the inputs in JAX's type, raising unless they are like those of the first step."""
        dtype = jax.dtypes.canonicalize_dtype(xs.dtype)
        xs = xs if xs.dtype == dtype else xs.astype(dtype)
        if self._input is None:
            first = jnp.asarray(xs[:1])
            self._stepped.check(self._params, first)
            self._states = _initial(self._stepped, self._slots.count, self._params, first)
            self._input = jax.ShapeDtypeStruct(xs.shape[1:], dtype)
        if xs.shape[1:] != self._input.shape:
            raise ValueError(f"an input must have shape {list(self._input.shape)}, got {list(xs.shape[1:])}")
        if dtype != self._input.dtype:
            raise TypeError(f"inputs must be of the type {self._input.dtype}, as the first were, got {dtype}")
        return xs

    def _width(self, count: int) -> int:
        """Returns how many rows the program has that steps so many sessions."""
        return min(self._slots.count, max(_LEAST_WIDTH, 1 << (count - 1).bit_length()))


def _array(values: Shaped[ArrayLike, "..."]) -> Shaped[np.ndarray, "..."]:
    array = np.asarray(values)
    if array.dtype.kind in "OSUMm":  # of objects, text and times
        raise TypeError(f"inputs must be arrays of numbers, got {values!r:.60}")
    return array


def _padded(xs: Shaped[Array | np.ndarray, "K ..."], width: int) -> Shaped[Array | np.ndarray, "W ..."]:
    """Returns rows with copies of the last one behind them."""
    spare = width - len(xs)
    if not spare:
        return xs
    concatenate = np.concatenate if isinstance(xs, np.ndarray) else jnp.concatenate
    return concatenate([xs, xs[-1:].repeat(spare, 0)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial(stepped: Stepped, count: int, params: Params, x: Shaped[Array, "1 ..."]) -> State:
    """Returns the states of all slots, each leaf ``[slots, ...]``."""
    return stepped.start(params, jnp.broadcast_to(x, (count, *x.shape[1:])))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(
    stepped: Stepped,
    params: Params,
    states: State,
    slots: Int[Array, " W"],
    fresh: Bool[Array, " W"],
    xs: Shaped[Array, "W ..."],
) -> tuple[State, Any]:
    """Returns all states after a step of some slots, and the outputs of these."""
    before = jax.tree.map(lambda leaf: leaf.at[slots].get(mode="clip"), states)
    after, outputs = stepped.step(params, select(fresh, stepped.start(params, xs), before), xs)
    scattered = jax.tree.map(lambda leaf, new: leaf.at[slots].set(new.astype(leaf.dtype), mode="drop"), states, after)
    return scattered, outputs
