"""Cells over sequences: the semantics that all unrolling methods share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.checks import check_params, check_state, check_switch
from rnnjax.cells.sizes import as_batch_size
from rnnjax.cells.told_apart import check_told_apart
from rnnjax.errors import first_line
from rnnjax.unrolling.auto import default_method
from rnnjax.unrolling.checks import (
    check_cell,
    check_flags,
    check_inputs,
    check_key,
    check_lengths,
    check_method,
)
from rnnjax.unrolling.cutting import cut_off, followed_by_reset
from rnnjax.unrolling.recurrence import CellSequence, Method
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.selecting import select
from rnnjax.unrolling.static import Static
from rnnjax.unrolling.varying import vary, varying_axes


def unroll(
    cell: Cell,
    params: Params,
    xs: Float[ArrayLike, "*B T I"],
    state: State | None = None,
    *,
    lengths: Integer[ArrayLike, " *B"] | Sequence[int] | None = None,
    mask: Bool[ArrayLike, "*B T"] | None = None,
    resets: Bool[ArrayLike, "*B T"] | None = None,
    reverse: bool = False,
    method: Method | None = None,
    key: Key = None,
    time_major: bool = False,
) -> tuple[Float[Array, "*B T O"], State]:
    """Runs a cell over a batch of sequences.

    Args:
      cell: the cell.
      params: its parameters, as ``cell.init`` returns them for I features.
      xs: inputs ``[*batch, T, I]`` with any number of batch axes; ``[T, *batch, I]`` with `time_major`.
      state: the state before the first step, each leaf ``[*batch, ...]``; None takes the cell's initial state (zeros,
        unless it is learned).
      lengths: number of valid steps of each sequence ``[*batch]``, from 0 to T. Past it, outputs are zero, the state
        stays what it was after the last valid step, and nothing in the padding (NaN included) changes a value or a
        gradient. Traced lengths, as inside `jax.jit`, are not checked to be at most T.
      mask: ``[*batch, T]``, false where a step is missing, anywhere in a sequence. The step is skipped: its output is
        zero, the state stays what it was, and nothing in its input (NaN included) changes a value or a gradient. With
        `lengths`, a step is valid if it is so by both.
      resets: ``[*batch, T]``; where true, the state is set back to the cell's initial state before that step. A missing
        step resets nothing. What lies before a reset changes no value and no gradient after it. Where an input or the
        given state is not finite, or an output overflows, outputs are NaN from there up to the next reset. Beyond an
        overflow, a gradient of a gradient by reverse mode twice is NaN with every method but `Static`; forward over
        reverse, as by `jax.hessian`, is right.
      reverse: whether to go from the last valid step to the first. Outputs stay in the order of the inputs, and the
        state returned is the one after the first input. A reset acts before its own step in the order taken, which is
        after it in time.
      method: how to unroll, such as `Static()` or `Scan()`; None takes `Auto()`, which chooses a method for each
        layer. All methods give the same values and gradients within rounding; a method that cannot run the cell raises
        an error that says why.
      key: PRNG key for dropout; None means evaluation. For a later part of a sequence, a `TimedKey` that names its
        steps, in the order in which they are taken.
      time_major: whether time is the first axis of `xs`, `mask`, `resets` and the outputs.

    Returns:
      The outputs, ``[*batch, T, O]`` (``[T, *batch, O]`` with `time_major`), and the final state, each leaf
      ``[*batch, ...]``. With T = 0, the final state is the state given; with an empty batch, all arrays are empty.

    Raises:
      ValueError: if a shape or a length does not fit, or the method cannot run the cell.
      TypeError: if a type does not fit.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> xs = jnp.ones((2, 5, 3))
      >>> ys, state = rnnjax.unroll(cell, params, xs, lengths=[5, 2])
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 8))
      >>> bool((ys[1, 2:] == 0).all())
      True
    """
    settings = _checked_settings(cell, method, reverse, time_major, keeps_states=False)
    return _checked(settings, params, xs, state, lengths, mask, resets, key)


def unroll_states(
    cell: Cell, params: Params, xs: Float[ArrayLike, "*B T I"], state: State | None = None, **options: Any
) -> tuple[Float[Array, "*B T O"], State]:
    """Runs a cell over a batch of sequences, as `unroll` does, and returns the state after every step as well.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs ``[*batch, T, I]``; ``[T, *batch, I]`` with `time_major`.
      state: the state before the first step, each leaf ``[*batch, ...]``; None takes the cell's initial state.
      **options: as in `unroll`. The method must be one that can return all states: `Scan`, which None takes,
        `Static`, `Auto`, `Associative`, `Newton` or `TimeSplit`.

    Returns:
      The outputs, and the states with every leaf ``[*batch, T, ...]`` (``[T, *batch, ...]`` with `time_major`). Past
      `lengths` and at missing steps the state stays what it was. With `reverse`, too, each state is the one after the
      step of the same index.

    Raises:
      ValueError: for a method that cannot return all states; otherwise as `unroll`.
      TypeError: for an unknown option; otherwise as `unroll`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, states = rnnjax.unroll_states(cell, params, jnp.ones((2, 5, 3)))
      >>> states.c.shape
      (2, 5, 8)
    """
    method = options.pop("method", None)
    method = Scan() if method is None else check_method(method)
    if not method.keeps_states:
        raise ValueError(f"unroll_states needs a method that returns all states, such as Scan(), got {method!r}")
    values = {"lengths": None, "mask": None, "resets": None, "reverse": False, "key": None, "time_major": False}
    unknown = options.keys() - values.keys()
    if unknown:
        raise TypeError(f"unroll_states has no option {min(unknown)!r}; it takes {', '.join(values)} and method")
    values |= options
    reverse, time_major = values.pop("reverse"), values.pop("time_major")
    settings = _checked_settings(cell, method, reverse, time_major, keeps_states=True)
    return _checked(settings, params, xs, state, **values)


class _Settings(NamedTuple):
    """The arguments that are not arrays, and so are static under `jax.jit`."""

    cell: Cell
    method: Method
    reverse: bool
    time_major: bool
    keeps_states: bool


def _checked_settings(cell, method, reverse: bool, time_major: bool, keeps_states: bool) -> _Settings:
    check_cell(cell)
    # Here and not under `jit`, where it is a static argument: a context that chooses is asked at every call.
    method = default_method(cell) if method is None else check_method(method)
    reverse, time_major = check_switch("reverse", reverse), check_switch("time_major", time_major)
    return _Settings(cell, method, reverse, time_major, keeps_states)


def _checked(settings: _Settings, params, xs, state, lengths, mask, resets, key):
    """Returns what `unroll` or `unroll_states` returns, after checking every other argument."""
    cell, time_major = settings.cell, settings.time_major
    xs = check_inputs(xs)
    check_params(cell, params, xs.shape[-1])
    length, batch = (xs.shape[0], xs.shape[1:-1]) if time_major else (xs.shape[-2], xs.shape[:-2])
    lengths = None if lengths is None else check_lengths(lengths, batch, length)
    mask = None if mask is None else check_flags("mask", mask, batch, length, time_major)
    resets = None if resets is None else check_flags("resets", resets, batch, length, time_major)
    state = None if state is None else check_state(cell, state, batch, xs.dtype)
    try:
        return _unroll(settings, params, xs, state, lengths, mask, resets, check_key(key))
    except jax.errors.UnexpectedTracerError:
        check_told_apart(cell)  # which may have kept what it computed while it was traced
        raise


# Into the trace around it: since JAX 0.12, `inline=True` inlines after lowering, when kernels have already been told
# which one is before them (see `rnnjax.unrolling.kernels.turns`).
_INLINED: Any = jax.Inline.JAX_EARLY if hasattr(jax, "Inline") else True  # pyright: ignore[reportAttributeAccessIssue]


@functools.partial(jax.jit, static_argnums=0, inline=_INLINED)
def _unroll(settings: _Settings, params, xs, state, lengths, mask, resets, key):
    batch_axes = xs.ndim - 2
    if not settings.time_major:
        xs, mask, resets = jax.tree.map(lambda x: jnp.moveaxis(x, batch_axes, 0), (xs, mask, resets))
    if settings.reverse:
        # Before `valid` is made: the valid steps of each sequence trade places, and the padding stays behind them.
        xs, mask, resets = (backward(x, lengths) for x in (xs, mask, resets))
    valid = valid_steps(xs.shape[0], lengths, mask)
    # Zeros for inputs, not only for outputs: the derivative at a NaN would be NaN, and zero times NaN is NaN.
    xs = xs if valid is None else select(valid, xs, jnp.zeros_like(xs))
    ys, state = _over_time(settings, params, xs, state, valid, mask is not None, resets, key)
    ys = ys if valid is None else select(valid, ys, jnp.zeros_like(ys))
    # Undone in the opposite order; the final state has no axis of time.
    if settings.reverse:
        ys = backward(ys, lengths)
    if not settings.time_major:
        ys = jnp.moveaxis(ys, 0, batch_axes)
    if settings.keeps_states:
        state = _in_order(settings, state, batch_axes, lengths)
    return ys, state


def choose_again() -> None:
    """Has `unroll` outside of `jax.jit` choose its methods again; compiled programs that contain it keep theirs."""
    compiled: Any = _unroll
    compiled.clear_cache()


def valid_steps(length: int, lengths: Array | None, mask: Array | None) -> Bool[Array, "T *B"] | None:
    """Returns which steps are valid by `lengths` and by `mask`; None if all are."""
    if lengths is None:
        return mask
    time = jnp.arange(length, dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim)  # [T, 1, ...]
    within = time < lengths
    return within if mask is None else within & mask


def _in_order(settings: _Settings, states: State, batch_axes: int, lengths: Array | None) -> State:
    """Returns states ``[T, *batch, ...]`` in the order of the inputs, with time on the same axis as there."""

    def leaf(states: Array) -> Array:
        states = backward(states, lengths) if settings.reverse else states
        return states if settings.time_major else jnp.moveaxis(states, 0, batch_axes)

    return jax.tree.map(leaf, states)


def _over_time(settings: _Settings, params, xs, state, valid, gaps: bool, resets, key):
    """Returns ``(ys, state)`` for time-major inputs; `gaps` says whether invalid steps may lie between valid ones."""
    initial = None if resets is None else _start(settings.cell, params, xs)
    state = _start(settings.cell, params, xs) if state is None else state
    if 0 in xs.shape[:-1]:
        return _over_nothing(settings, params, xs, state)
    lost = followed = None
    if resets is not None:
        resets = resets if valid is None else resets & valid  # a step that is missing resets nothing
        xs, state, lost = cut_off(xs, state, initial, resets)
        followed = followed_by_reset(resets)
    keeps_states = settings.keeps_states
    sequence = CellSequence(settings.cell, params, xs, state, initial, valid, resets, key, gaps, keeps_states, followed)
    ys, state = settings.method.over(sequence)
    if lost is not None:
        ys = select(lost, jnp.full_like(ys, jnp.nan), ys)
    return ys, state


def _start(cell: Cell, params: Params, xs: Array) -> State:
    """Returns the state that time-major sequences start from.

    Raises:
      TypeError: if the cell's `initial_state` takes a whole number alone, and there is not one batch axis.
    """
    batch = as_batch_size(xs.shape[1:-1])
    try:
        return cell.start(params, batch, xs.dtype)
    except TypeError as error:
        if not isinstance(batch, tuple):
            raise
        raise TypeError(
            f"no initial state of {type(cell).__name__} for the batch axes {list(batch)} ({first_line(error)}); have "
            "initial_state take a tuple for batch_size, or give xs with one batch axis"
        ) from error


def _over_nothing(settings: _Settings, params, xs, state):
    """Returns ``(ys, state)`` for inputs without a step or without a sequence."""
    scan = settings._replace(method=Scan(), keeps_states=False)

    def outputs(params, xs):
        return _over_time(scan, params, xs, None, None, False, None, None)[0]

    # The type and the features of the outputs are those that one step of one sequence would have.
    # [1, *batch, I], with no axis of size 0, for which there would be nothing to trace a loop with; nor have parameters
    # that are of the batch's size, such as a memory that is attended to.
    batch = xs.shape[1:-1]
    some = tuple(1 if axis == 0 else axis for axis in batch)

    def of_some(leaf: Any) -> Any:
        if not batch or jnp.shape(leaf)[: len(batch)] != batch:
            return leaf
        return jax.ShapeDtypeStruct((*some, *leaf.shape[len(batch) :]), leaf.dtype)

    one_step = jax.ShapeDtypeStruct((1, *some, xs.shape[-1]), xs.dtype)
    ys = jax.eval_shape(outputs, jax.tree.map(of_some, params), one_step)
    ys = jnp.zeros((*xs.shape[:-1], *ys.shape[xs.ndim - 1 :]), ys.dtype)
    if settings.keeps_states:
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (xs.shape[0], *leaf.shape)), state)
    # As the arrays would vary if steps had been taken.
    return vary((ys, state), varying_axes((params, xs, state)))


def backward(xs: Any, lengths: Int[Array, " *B"] | None) -> Any:
    """Returns time-major sequences with the valid steps of each reversed; the padding stays where it is."""
    if xs is None:
        return None
    if lengths is None:
        return jnp.flip(xs, 0)
    time = jnp.arange(xs.shape[0], dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim)
    source = jnp.where(time < lengths, lengths - 1 - time, time)  # [T, *B]
    return jnp.take_along_axis(xs, source.reshape(source.shape + (1,) * (xs.ndim - source.ndim)), 0)


def static_unroll(
    cell: Cell, params: Params, xs: Sequence[Float[ArrayLike, "*B I"]], state: State | None = None, **options: Any
) -> tuple[list[Float[Array, "*B O"]], State]:
    """Unrolls a list of inputs, one a step, by a Python loop, as TensorFlow's `static_rnn` does.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs ``[*batch, I]``, one a step.
      state: the state before the first step, each leaf ``[*batch, ...]``; None takes the cell's initial state.
      **options: as in `unroll`, except `method` and `time_major`; `mask` and `resets` are ``[T, *batch]``.

    Returns:
      A list of outputs ``[*batch, O]``, and the final state.

    Raises:
      ValueError: for an empty list; otherwise as `unroll`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.BasicRNN(5)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.static_unroll(cell, params, [jnp.zeros((4, 3)), jnp.ones((4, 3))])
      >>> len(ys), ys[0].shape
      (2, (4, 5))
    """
    if not len(xs):
        raise ValueError("static_unroll needs at least one input, got an empty list")
    ys, state = unroll(cell, params, jnp.stack(list(xs)), state, method=Static(), time_major=True, **options)
    return list(ys), state
