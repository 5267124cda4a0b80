"""Sequences of a cell: the semantics that every unrolling method shares."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.checks import check_params, check_state
from rnnjax.cells.sizes import as_batch_size
from rnnjax.unrolling.auto import default_method
from rnnjax.unrolling.checks import check_cell, check_flags, check_inputs, check_lengths, check_method
from rnnjax.unrolling.cutting import cut_off
from rnnjax.unrolling.recurrence import CellSequence, Method, select
from rnnjax.unrolling.scan import Scan
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
      params: its parameters.
      xs: inputs ``[*batch, T, I]`` with any number of batch axes; ``[T, *batch, I]`` with `time_major`.
      state: the state before the first step; None takes the cell's initial state (zeros, unless it is learned).
      lengths: valid steps of each sequence, 0 to T. Past them outputs are zero, the state stays what it was at the
        last valid step, and nothing in the padding (NaN included) changes a value or a gradient. Traced lengths, as
        inside `jax.jit`, cannot be checked to be at most T.
      mask: false where a step is missing, anywhere in a sequence: it is skipped, its output is zero, the state stays
        what it was, and nothing in its input (NaN included) changes a value or a gradient. With `lengths` too, a step
        must be within both.
      resets: where true, the state is set back to the cell's initial state before that step is taken; a step that is
        missing is not taken, and resets nothing. What lies before a reset changes no value and no gradient after it:
        where an input or the given state there is not finite, outputs are NaN from it on up to the reset.
      reverse: take the steps from the last valid one to the first; outputs stay in the order of the inputs, and the
        state returned is that after the first input.
      method: how to unroll, such as `Static()` or `Scan()`; None takes `Auto()`, which chooses for each
        layer by itself. All methods give the same values and gradients within rounding; one that cannot serve says why.
      key: PRNG key for dropout; None means evaluation. For a later part of a sequence, a `TimedKey` that names its
        steps, in the order in which they are taken.
      time_major: whether time is the first axis of `xs`, `mask`, `resets` and the outputs.

    Returns:
      The outputs, ``[*batch, T, O]`` (``[T, *batch, O]`` with `time_major`), and the final state. Without a step
      (T = 0) that is the state given, and without a sequence everything is empty.

    Raises:
      ValueError: if a shape or a length does not fit, or the method cannot serve; TypeError: if a type does not fit.
    """
    return _checked(False, cell, params, xs, state, lengths, mask, resets, reverse, method, key, time_major)


def unroll_states(
    cell: Cell, params: Params, xs: Float[ArrayLike, "*B T I"], state: State | None = None, **options: Any
) -> tuple[Float[Array, "*B T O"], State]:
    """Runs a cell over a batch of sequences, as `unroll`, and returns the state after every step as well.

    Args:
      cell, params, xs, state, **options: as in `unroll`; the method must be one that keeps all states, such as
        `Scan` (which None takes) or `Static`.

    Returns:
      The outputs and the states, every leaf ``[*batch, T, ...]`` (``[T, *batch, ...]`` with `time_major`). Past
      `lengths` and at missing steps the state is what it was; with `reverse`, that of a step is the one after it in
      the order taken.

    Raises:
      ValueError: for a method that does not keep all states; otherwise as `unroll`.
    """
    method = options.pop("method", None)
    method = Scan() if method is None else check_method(method)
    if not method.keeps_states:
        raise ValueError(f"unroll_states needs a method that keeps all states, such as Scan(), got {method!r}")
    chosen = {"lengths": None, "mask": None, "resets": None, "reverse": False, "key": None, "time_major": False}
    unknown = options.keys() - chosen.keys()
    if unknown:
        raise TypeError(f"unroll_states has no option {min(unknown)!r}; it takes {', '.join(chosen)} and method")
    chosen |= options
    return _checked(True, cell, params, xs, state, method=method, **chosen)


def _checked(keeps_states, cell, params, xs, state, lengths, mask, resets, reverse, method, key, time_major):
    """Returns what `unroll` or `unroll_states` does, once every argument is seen to fit."""
    time_axis = 0 if time_major else -2
    check_cell(cell)
    xs = jnp.asarray(xs)
    check_inputs(xs)
    check_params(cell, params, xs.shape[-1])
    batch = xs.shape[1:-1] if time_major else xs.shape[:-2]
    length = xs.shape[time_axis]
    lengths = None if lengths is None else check_lengths(lengths, batch, length)
    mask = None if mask is None else check_flags("mask", mask, batch, length, time_major)
    resets = None if resets is None else check_flags("resets", resets, batch, length, time_major)
    state = None if state is None else check_state(cell, state, batch, xs.dtype)
    method = default_method(cell) if method is None else check_method(method)
    how = _How(cell, method, reverse, time_axis, keeps_states)
    return _unroll(how, params, xs, state, lengths, mask, resets, key)


def choose_again() -> None:
    """Has `unroll` outside of `jit` ask `Auto` again, where it is compiled with what was known before."""
    compiled: Any = _unroll
    compiled.clear_cache()


class _How(NamedTuple):
    """What of an unrolling is no array, and so static under `jit`."""

    cell: Cell
    method: Method
    reverse: bool
    time_axis: int
    keeps_states: bool


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _unroll(how: _How, params, xs, state, lengths, mask, resets, key):
    xs = jnp.moveaxis(xs, how.time_axis, 0)
    mask, resets = (
        None if flags is None else jnp.moveaxis(flags, min(how.time_axis + 1, 0), 0) for flags in (mask, resets)
    )
    if how.reverse:
        xs, mask, resets = (backward(x, lengths) for x in (xs, mask, resets))
    valid = _valid(xs.shape[0], lengths, mask)
    xs = xs if valid is None else select(valid, xs, jnp.zeros_like(xs))
    ys, state = _over_time(how, params, xs, state, valid, mask is not None, resets, key)
    ys = ys if valid is None else select(valid, ys, jnp.zeros_like(ys))
    if how.reverse:
        ys = backward(ys, lengths)
    ys = jnp.moveaxis(ys, 0, how.time_axis)
    return ys, _states_in_order(how, state, xs.ndim - 2, lengths) if how.keeps_states else state


def _valid(length: int, lengths: Array | None, mask: Array | None) -> Array | None:
    """Returns ``[T, *batch]``, true for the steps that are taken; None where all are."""
    if lengths is None:
        return mask
    within = jnp.arange(length, dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim) < lengths
    return within if mask is None else within & mask


def _states_in_order(how: _How, states: State, batch_axes: int, lengths: Array | None) -> State:
    """Returns states ``[T, *batch, ...]`` in the order of the inputs, with the axis of time where theirs is."""

    def leaf(states: Array) -> Array:
        states = backward(states, lengths) if how.reverse else states
        return states if how.time_axis == 0 else jnp.moveaxis(states, 0, batch_axes)

    return jax.tree.map(leaf, states)


def _over_time(how: _How, params, xs, state, valid, gaps: bool, resets, key):
    """Returns ``(ys, state)`` of time-major inputs."""
    cell, method, batch = how.cell, how.method, as_batch_size(xs.shape[1:-1])
    initial = None if resets is None else cell.start(params, batch, xs.dtype)
    state = cell.start(params, batch, xs.dtype) if state is None else state
    if 0 in xs.shape[:-1]:
        return _of_nothing(how, params, xs, state)
    lost = None
    if resets is not None:
        xs, state, lost = cut_off(xs, state, initial, resets if valid is None else resets & valid)
    sequence = CellSequence(cell, params, xs, state, initial, valid, resets, key, gaps, how.keeps_states)
    ys, state = method.over(sequence)
    return ys if lost is None else select(lost, jnp.full_like(ys, jnp.nan), ys), state


def _of_nothing(how: _How, params, xs, state):
    """Returns ``(ys, state)`` where there is no step or no sequence."""
    one_step = jax.ShapeDtypeStruct((*[1] * (xs.ndim - 1), xs.shape[-1]), xs.dtype)
    scan = how._replace(method=Scan(), keeps_states=False)
    over_time = functools.partial(_over_time, scan)
    ys, _ = jax.eval_shape(lambda params, xs: over_time(params, xs, None, None, False, None, None), params, one_step)
    ys = jnp.zeros((*xs.shape[:-1], *ys.shape[xs.ndim - 1 :]), ys.dtype)
    if how.keeps_states:
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (xs.shape[0], *leaf.shape)), state)
    return vary((ys, state), varying_axes((params, xs, state)))


def backward(xs: Any, lengths: Int[Array, " *B"] | None) -> Any:
    """Returns time-major sequences with the steps of each valid part reversed; padding stays where it is."""
    if xs is None:
        return None
    if lengths is None:
        return jnp.flip(xs, 0)
    time = jnp.arange(xs.shape[0], dtype=jnp.int32).reshape(-1, *[1] * lengths.ndim)
    source = jnp.where(time < lengths, lengths - 1 - time, time)
    return jnp.take_along_axis(xs, source.reshape(source.shape + (1,) * (xs.ndim - source.ndim)), 0)


def static_unroll(
    cell: Cell, params: Params, xs: Sequence[Float[ArrayLike, "*B I"]], state: State | None = None, **options: Any
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
