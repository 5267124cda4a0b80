"""Sequences of a cell: the semantics that every unrolling method shares, and the choice of one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.unrolling.fused import Fused, fuses
from rnnjax.unrolling.recurrence import Method, Pass, PassMethod, Recurrence, Steps, select
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.static import Static


def unroll(
    cell: Cell,
    params: Params,
    xs: Float[Array, "*B T I"],
    state: State | None = None,
    *,
    lengths: Int[Array, " *B"] | None = None,
    resets: Bool[Array, "*B T"] | None = None,
    reverse: bool = False,
    method: Method | None = None,
    key: Key = None,
    time_major: bool = False,
) -> tuple[Float[Array, "*B T O"], State]:
    """Runs a cell over a batch of sequences.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs ``[*batch, T, I]`` with any number of batch axes; ``[T, *batch, I]`` with `time_major`.
      state: the state before the first step; None takes the cell's initial state (zeros, unless it is learned).
      lengths: valid steps of each sequence, 0 to T. Past them outputs are zero, the state stays what it was at the
        last valid step, and nothing in the padding (NaN included) changes a value or a gradient. Traced lengths, as
        inside `jax.jit`, cannot be checked to be at most T.
      resets: where true, the state is set back to the cell's initial state before that step is taken.
      reverse: take the steps from the last valid one to the first; outputs stay in the order of the inputs, and the
        state returned is that after the first input.
      method: how to unroll, such as `Static()` or `Scan()`; None takes what `choose_method` says, or `choosing` before
        it. All methods give the same values and gradients within rounding.
      key: PRNG key for dropout; None means evaluation. For a later part of a sequence, a `TimedKey` that names its
        steps, in the order in which they are taken.
      time_major: whether time is the first axis of `xs`, `resets` and the outputs.

    Returns:
      The outputs, ``[*batch, T, O]`` (``[T, *batch, O]`` with `time_major`), and the final state.

    Raises:
      ValueError: if a shape or a length does not fit; TypeError: if a type does not.
    """
    time_axis = 0 if time_major else -2
    check_cell(cell)
    xs = jnp.asarray(xs)
    check_inputs(xs)
    batch = xs.shape[1:-1] if time_major else xs.shape[:-2]
    length = xs.shape[time_axis]
    lengths = None if lengths is None else check_lengths(lengths, batch, length)
    resets = None if resets is None else check_resets(resets, batch, length, time_major)
    state = None if state is None else check_state(cell, state, batch, xs.dtype)
    method = _CHOOSING.get()(cell) if method is None else check_method(method)
    method = choose_method(cell, (length, *batch, xs.shape[-1])) if method is None else method
    return _unroll(cell, method, reverse, time_axis, params, xs, state, lengths, resets, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), inline=True)
def _unroll(cell, method, reverse, time_axis, params, xs, state, lengths, resets, key):
    xs = jnp.moveaxis(xs, time_axis, 0)
    if resets is not None:
        resets = jnp.moveaxis(resets, min(time_axis + 1, 0), 0)
    valid = None
    if lengths is not None:
        valid = jnp.arange(xs.shape[0], dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim) < lengths
        xs = select(valid, xs, jnp.zeros_like(xs))
    if reverse:
        xs, resets = (backward(x, lengths) for x in (xs, resets))
    ys, state = _over_time(cell, method, params, xs, state, valid, resets, key)
    ys = ys if valid is None else select(valid, ys, jnp.zeros_like(ys))
    ys = backward(ys, lengths) if reverse else ys
    return jnp.moveaxis(ys, 0, time_axis), state


def _over_time(cell, method, params, xs, state, valid, resets, key):
    """Returns ``(ys, state)`` of time-major inputs, by a method of either kind."""
    batch = xs.shape[1:-1]
    initial = None if resets is None else cell.start(params, batch, xs.dtype)
    state = cell.start(params, batch, xs.dtype) if state is None else state
    given = Pass(cell, params, xs, state, initial, valid, resets, key)
    return method.run_pass(given) if isinstance(method, PassMethod) else by_recurrences(method, given)


def by_recurrences(method: Method, given: Pass) -> tuple[Array, State]:
    """Returns ``ys [T, *batch, O]`` and the final state, by `method` for each recurrence that the cell is made of."""

    def recur(cell, params, zs, state, initial, xs=None):
        steps = Steps(zs, given.valid, given.resets)
        state, initial = varying_like(steps, params, state, initial)
        return method.run(Recurrence(cell, params, state, initial, steps, xs))

    return given.cell.over_time(recur, given.params, given.xs, given.state, given.initial, given.key)


def varying_like(steps: Steps, params: Params, *states: State) -> list[State]:
    """Returns states that vary over every mesh axis that the steps and the parameters do.

    Inside `jax.shard_map` a loop's state must have one type throughout; elsewhere this changes nothing.
    """
    return vary(list(states), varying_axes((steps, params, states)))


def varying_axes(tree: Any) -> frozenset[str]:
    """Returns the mesh axes over which any leaf varies, as `jax.shard_map` keeps account of them."""
    return frozenset().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)))


def vary(tree: Any, axes: frozenset[str]) -> Any:
    """Returns the tree with every leaf declared to vary over the axes."""

    def leaf(x: Array) -> Array:
        missing = tuple(sorted(axes - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(leaf, tree)


def backward(xs: Any, lengths: Int[Array, " *B"] | None) -> Any:
    """Returns time-major sequences with the steps of each valid part reversed; padding stays where it is."""
    if xs is None:
        return None
    if lengths is None:
        return jnp.flip(xs, 0)
    time = jnp.arange(xs.shape[0], dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim)
    source = jnp.where(time < lengths, lengths - 1 - time, time)
    return jnp.take_along_axis(xs, source.reshape(source.shape + (1,) * (xs.ndim - source.ndim)), 0)


@contextlib.contextmanager
def choosing(method_for: Callable[[Cell], Method | None]) -> Iterator[None]:
    """Within it, `unroll` without a method takes ``method_for(cell)``; where that is None, what `choose_method` says.

    So a whole model is unrolled in some way without its own code knowing of it. What is traced within stays so.
    """
    token = _CHOOSING.set(method_for)
    try:
        yield
    finally:
        _CHOOSING.reset(token)


_CHOOSING: ContextVar[Callable[[Cell], Method | None]] = ContextVar("choosing", default=lambda cell: None)


def choose_method(cell: Cell, shape: tuple[int, ...], platform: str | None = None) -> Method:
    """Returns the method that `unroll` takes for a cell where none is given.

    Args:
      cell: the cell.
      shape: ``(T, *batch, I)``, the time-major shape of the inputs.
      platform: "cpu", "gpu" or "tpu"; None takes JAX's default.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"  # elsewhere nothing has been measured
    return Fused() if on_cpu and any(map(fuses, parts(cell))) else Scan()


def parts(cell: Cell) -> Iterator[Cell]:
    """Yields a cell and the cells that it is made of."""
    yield cell
    for field in dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ():
        value = getattr(cell, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Cell):
                yield from parts(inner)


def static_unroll(
    cell: Cell, params: Params, xs: Sequence[Float[Array, "*B I"]], state: State | None = None, **options: Any
) -> tuple[list[Float[Array, "*B O"]], State]:
    """Unrolls a list of inputs, one a step, by a Python loop; returns a list of outputs, and the final state.

    The manual style of unrolling; options are those of `unroll`, `resets` being ``[T, *batch]``.

    Raises:
      ValueError: for an empty list, and as `unroll`.
    """
    if not len(xs):
        raise ValueError("static_unroll needs at least one input, got an empty list")
    ys, state = unroll(cell, params, jnp.stack(list(xs)), state, method=Static(), time_major=True, **options)
    return list(ys), state


def check_cell(cell: Any) -> None:
    """Raises unless `cell` is one."""
    if not isinstance(cell, Cell):
        got = cell.__name__ if isinstance(cell, type) else repr(cell) if isinstance(cell, str) else type(cell).__name__
        raise TypeError(f"cell must be a cell, such as LSTM(128), got {got}")


def check_inputs(xs: Any) -> None:
    """Raises unless `xs` can be a batch of sequences of features."""
    shape = np.shape(xs)
    if len(shape) < 2:
        raise ValueError(f"xs must have shape [*batch, T, I], two axes at least, got {list(shape)}")
    if 0 in shape:
        raise ValueError(f"xs has an empty axis: {list(shape)}; give at least one step, one feature and one sequence")
    dtype = jnp.result_type(xs)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"xs must be floating point, got {dtype}; convert it, for example with xs.astype('float32')")


def check_lengths(lengths: Any, batch: tuple[int, ...], length: int) -> Array:
    """Returns `lengths` as an array, raising unless it has one whole number from 0 to T a sequence."""
    lengths = jnp.asarray(lengths)
    dtype = lengths.dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"lengths must be whole numbers, got {dtype}")
    if np.shape(lengths) != batch:
        raise ValueError(f"lengths must have shape [*batch] = {list(batch)}, got {list(np.shape(lengths))}")
    if not isinstance(lengths, Tracer):
        wrong = np.asarray(lengths)[(np.asarray(lengths) < 0) | (np.asarray(lengths) > length)]
        if wrong.size:
            raise ValueError(f"lengths must be between 0 and T = {length}, got {wrong.flat[0]}")
    return lengths.astype(jnp.int32)


def check_resets(resets: Any, batch: tuple[int, ...], length: int, time_major: bool) -> Array:
    """Returns `resets` as an array, raising unless it has one truth value a step."""
    resets = jnp.asarray(resets)
    if resets.dtype != bool:
        raise TypeError(f"resets must be bool, got {resets.dtype}")
    shape, name = ((length, *batch), "[T, *batch]") if time_major else ((*batch, length), "[*batch, T]")
    if np.shape(resets) != shape:
        raise ValueError(f"resets must have shape {name} = {list(shape)}, got {list(np.shape(resets))}")
    return resets


def check_state(cell: Cell, state: State, batch: tuple[int, ...], dtype: Any) -> State:
    """Returns `state` in the types of the cell's, raising unless it has its structure and shapes."""
    expected = jax.eval_shape(lambda: cell.initial_state(batch, dtype))
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise TypeError(f"state must be a {describe(expected)}, got {describe(state)}")
    if [np.shape(leaf) for leaf in jax.tree.leaves(state)] != [like.shape for like in jax.tree.leaves(expected)]:
        raise ValueError(f"state must have the shapes {describe(expected)}, got {describe(state)}")
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), state, expected)


def check_method(method: Any) -> Method:
    """Returns `method`, raising unless it is one."""
    if isinstance(method, type) or not hasattr(method, "run"):
        raise TypeError(f"method must be an unrolling method such as Scan() or Static(), got {method!r}")
    return method


def describe(state: State) -> str:
    """Returns a state's structure with the shapes of its arrays, such as ``LSTMState(h=[4, 8], c=[4, 8])``."""
    return str(jax.tree.map(lambda leaf: _Shape(np.shape(leaf)), state))


class _Shape:
    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def __repr__(self) -> str:
        return str(list(self.shape))
