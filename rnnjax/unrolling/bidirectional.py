"""Sequences read in both directions, by one layer or by several on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.randomness import dropout_mask, split
from rnnjax.unrolling.checks import check_cell
from rnnjax.unrolling.unroll import unroll

Cells = Cell | Sequence[Cell]


def bidirectional(
    forward: Cells,
    backward: Cells,
    params: Sequence[Params],
    xs: Float[ArrayLike, "*B T I"],
    state: Sequence[State] | None = None,
    *,
    dropout: float = 0.0,
    key: Key = None,
    **options: Any,
) -> tuple[Float[Array, "*B T O"], tuple[Any, ...]]:
    """Runs one cell from the first step to the last and another from the last to the first (Schuster, 1997).

    With lists of cells, one a layer, every layer reads the outputs of both directions of the layer below, as in
    PyTorch's and Keras's stacks (two `Stack`s would be joined behind the last layer alone). Parameters, states and
    what is returned as state are then a pair a layer.

    Args:
      forward, backward: the two cells, or two lists of them, from the lowest layer to the highest.
      params: their parameters, as a pair, or a pair a layer; `init_bidirectional` makes them.
      xs: inputs, as in `unroll`.
      state: a pair of states, or a pair a layer; None takes the cells' initial states.
      dropout: rate of dropping, at each step, what a layer reads of the layer below, the same for both directions.
      key: PRNG key for dropout, between layers and in the cells; None means evaluation.
      **options: as in `unroll`, except `reverse`.

    Returns:
      The outputs, those of `backward` behind those of `forward` in the last axis, and the pair of final states, or a
      tuple of such pairs.

    Raises:
      ValueError: for lists of different lengths, numbers of pairs that are not the number of layers, a dropout that is
        not in [0, 1) or has no layers to be between; otherwise as `unroll`.
    """
    pairs = layers(forward, backward)
    check_dropout(dropout, len(pairs))
    xs = jnp.asarray(xs)
    if isinstance(forward, Cell):
        return _layer(pairs[0], params, xs, state, key, options)
    _check_pairs("params", params, len(pairs))
    if state is not None:
        _check_pairs("state", state, len(pairs))
    states, time_axis = [], 0 if options.get("time_major") else -2
    for layer, (pair, k) in enumerate(zip(pairs, split(key, len(pairs)))):
        k_layer, k_dropout = split(k, 2)
        if layer:
            xs = _dropped(k_dropout, dropout, xs, time_axis)
        xs, after = _layer(pair, params[layer], xs, None if state is None else state[layer], k_layer, options)
        states.append(after)
    return xs, tuple(states)


def init_bidirectional(key: PRNGKeyArray, forward: Cells, backward: Cells, input_size: int) -> tuple:
    """Returns fresh parameters for `bidirectional`: a pair, or a pair a layer where the cells are lists."""
    pairs = layers(forward, backward)
    keys = jax.random.split(key, (len(pairs), 2))
    made = [
        tuple(cell.init(k, size) for cell, k in zip(pair, two))
        for pair, two, size in zip(pairs, keys, input_sizes(pairs, input_size))
    ]
    return made[0] if isinstance(forward, Cell) else tuple(made)


def layers(forward: Cells, backward: Cells) -> tuple[tuple[Cell, Cell], ...]:
    """Returns the two cells of each layer.

    Raises:
      ValueError: unless there is a backward cell for each forward cell; TypeError: for what is not a cell.
    """
    if isinstance(forward, Cell) != isinstance(backward, Cell):
        raise TypeError("forward and backward must be two cells, or two lists of cells, one a layer; got one of each")
    ahead, back = ((cells,) if isinstance(cells, Cell) else tuple(cells) for cells in (forward, backward))
    if not ahead or len(ahead) != len(back):
        raise ValueError(
            f"every layer needs a forward and a backward cell; got {len(ahead)} forward and {len(back)} backward"
        )
    for cell in (*ahead, *back):
        check_cell(cell)
    return tuple(zip(ahead, back))


def drops(forward: Cells, backward: Cells, dropout: float) -> bool:
    """Returns whether a key is drawn from, in the cells or between the layers."""
    return dropout > 0 or any(cell.stochastic for pair in layers(forward, backward) for cell in pair)


def input_sizes(pairs: Sequence[tuple[Cell, Cell]], input_size: Any) -> list:
    """Returns the number of features that each layer reads: above the first, the outputs of both cells below."""
    return [input_size, *(ahead.output_size + back.output_size for ahead, back in pairs[:-1])]


def check_dropout(dropout: float, count: int) -> None:
    """Raises unless `dropout` is a rate, and 0 where only one layer is there."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if dropout and count == 1:
        raise ValueError(
            f"dropout={dropout} is between layers, and there is one; give more, or wrap the cells in Dropout"
        )


def _check_pairs(name: str, pairs: Any, count: int) -> None:
    """Raises unless there is a pair a layer."""
    if len(pairs) != count or not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
        got = ", ".join(type(pair).__name__ for pair in pairs)
        raise ValueError(f"{name} must be a pair for each of the {count} layers, got {len(pairs)}: {got}")


def _layer(pair: tuple[Cell, Cell], params, xs: Array, state, key: Key, options: dict[str, Any]):
    """Returns the outputs of both directions side by side, and the pair of final states."""
    states, keys = state or (None, None), split(key, 2)
    ahead, first = unroll(pair[0], params[0], xs, states[0], key=keys[0], **options)
    back, second = unroll(pair[1], params[1], xs, states[1], key=keys[1], reverse=True, **options)
    return jnp.concatenate([ahead, back], axis=-1), (first, second)


def _dropped(key: Key, rate: float, xs: Array, time_axis: int) -> Array:
    """Returns a sequence with dropout at every step."""
    if key is None or not rate:
        return xs
    shape = jnp.moveaxis(xs, time_axis, 0).shape
    mask = dropout_mask(key, rate, shape, xs.dtype, variational=False)
    return xs * jnp.moveaxis(mask, 0, time_axis)
