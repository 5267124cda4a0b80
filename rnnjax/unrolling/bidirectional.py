"""Sequences read in both directions, by one layer or by several on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.randomness import dropout_mask, split
from rnnjax.cells.sizes import Size
from rnnjax.unrolling.checks import check_cell
from rnnjax.unrolling.sequences import unroll, valid_steps

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

    With two lists of cells, every layer reads the outputs of both directions of the layer below, as in PyTorch and
    Keras. (Two `Stack`s would be two separate directions, joined after the last layer only.) Parameters and states are
    then tuples with a pair for each layer.

    Args:
      forward, backward: the two cells, or two lists of cells, from the lowest layer to the highest.
      params: a pair of parameters, or a pair for each layer, as `init_bidirectional` returns them.
      xs: inputs ``[*batch, T, I]``; ``[T, *batch, I]`` with `time_major`.
      state: a pair of states, or a pair for each layer; None takes the cells' initial states.
      dropout: rate of dropping, at each step, units that a layer reads of the layer below, the same units for both
        directions.
      key: PRNG key for dropout, between layers and in the cells; None means evaluation.
      **options: as in `unroll`, except `reverse`. A reset before step t cuts a sequence there for both directions, so
        that neither reads across it: the backward cell is reset before it takes the valid step that precedes t.

    Returns:
      The outputs ``[*batch, T, O]``, those of `backward` behind those of `forward` on the last axis, and the pair of
      final states, or a tuple with a pair for each layer.

    Raises:
      ValueError: if the lists differ in length, if there is not a pair of parameters or states for each layer, or if
        `dropout` is not in [0, 1) or there is one layer only; otherwise as `unroll`.
      TypeError: for a cell and a list; otherwise as `unroll`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> forward, backward = rnnjax.LSTM(8), rnnjax.LSTM(8)
      >>> params = rnnjax.init_bidirectional(jax.random.key(0), forward, backward, 3)
      >>> ys, (first, second) = rnnjax.bidirectional(forward, backward, params, jnp.ones((2, 5, 3)), lengths=[5, 2])
      >>> ys.shape, first.h.shape
      ((2, 5, 16), (2, 8))
    """
    pairs = layers(forward, backward)
    check_dropout(dropout, len(pairs))
    xs = jnp.asarray(xs)
    if isinstance(forward, Cell):
        _check_pair("params", params)
        if state is not None:
            _check_pair("state", state)
        return _layer(pairs[0], params, xs, state, key, options)
    _check_pairs("params", params, len(pairs))
    if state is not None:
        _check_pairs("state", state, len(pairs))
    time_axis = 0 if options.get("time_major") else -2
    first_states = [None] * len(pairs) if state is None else state
    last_states = []
    for layer, (pair, k) in enumerate(zip(pairs, split(key, len(pairs)))):
        k_layer, k_dropout = split(k, 2)
        if layer > 0:
            xs = _dropped(k_dropout, dropout, xs, time_axis)
        xs, last = _layer(pair, params[layer], xs, first_states[layer], k_layer, options)
        last_states.append(last)
    return xs, tuple(last_states)


def init_bidirectional(key: PRNGKeyArray, forward: Cells, backward: Cells, input_size: Size) -> tuple:
    """Returns fresh parameters for `bidirectional`.

    Args:
      key: PRNG key.
      forward, backward: the two cells, or two lists of cells, from the lowest layer to the highest.
      input_size: number I of input features.

    Returns:
      A pair of parameters, or for lists of cells a tuple with a pair for each layer.

    Raises:
      ValueError: if the lists differ in length.
      TypeError: for a cell and a list, or something that is not a cell.

    Example:
      >>> import jax, rnnjax
      >>> cells = [rnnjax.GRU(8), rnnjax.GRU(8)]
      >>> params = rnnjax.init_bidirectional(jax.random.key(0), cells, cells, 3)
      >>> params[1][0].w_x.shape  # the second layer reads both directions of the first
      (16, 3, 8)
    """
    pairs = layers(forward, backward)
    keys = jax.random.split(key, (len(pairs), 2))
    params = [
        tuple(cell.init(k, size) for cell, k in zip(pair, keys_of_pair))
        for pair, keys_of_pair, size in zip(pairs, keys, input_sizes(pairs, input_size))
    ]
    return params[0] if isinstance(forward, Cell) else tuple(params)


def layers(forward: Cells, backward: Cells) -> tuple[tuple[Cell, Cell], ...]:
    """Returns the two cells of each layer.

    Raises:
      ValueError: unless there is a backward cell for each forward cell.
      TypeError: for something that is not a cell.
    """
    if isinstance(forward, Cell) != isinstance(backward, Cell):
        raise TypeError("forward and backward must be two cells, or two lists of cells; got a cell and a list")
    forward_cells, backward_cells = (
        (cells,) if isinstance(cells, Cell) else tuple(cells) for cells in (forward, backward)
    )
    if not forward_cells or len(forward_cells) != len(backward_cells):
        raise ValueError(
            "every layer needs a forward and a backward cell; "
            f"got {len(forward_cells)} forward and {len(backward_cells)} backward"
        )
    for cell in (*forward_cells, *backward_cells):
        check_cell(cell)
    return tuple(zip(forward_cells, backward_cells))


def hashable(cells: Cells) -> Cells:
    """Returns a cell as it is, and several as a tuple, which can be hashed as a list cannot."""
    return cells if isinstance(cells, Cell) else tuple(cells)


def drops(forward: Cells, backward: Cells, dropout: float) -> bool:
    """Returns whether a key is drawn from, in the cells or between the layers."""
    return dropout > 0 or any(cell.stochastic for pair in layers(forward, backward) for cell in pair)


def input_sizes(pairs: Sequence[tuple[Cell, Cell]], input_size: Any) -> list:
    """Returns the number of features that each layer reads: above the first, the outputs of both cells below."""
    return [input_size, *(forward.output_size + backward.output_size for forward, backward in pairs[:-1])]


def check_dropout(dropout: float, layer_count: int) -> None:
    """Raises unless `dropout` is a rate in [0, 1), and 0 if there is one layer only."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if dropout and layer_count == 1:
        raise ValueError(
            f"dropout={dropout} acts between layers, but there is only one; give lists of cells, "
            "or wrap the cells in Dropout"
        )


def _check_pairs(name: str, pairs: Any, count: int) -> None:
    """Raises unless there is a pair for each layer."""
    if len(pairs) != count or not all(map(_is_pair, pairs)):
        got = ", ".join(type(pair).__name__ for pair in pairs)
        raise ValueError(f"{name} must be a pair for each of the {count} layers, got {len(pairs)}: {got}")


def _check_pair(name: str, pair: Any) -> None:
    """Raises unless something can be what a single layer has of both directions."""
    if not _is_pair(pair):
        size = f" of {len(pair)}" if type(pair) in (tuple, list) else ""
        raise ValueError(f"{name} must be a pair, forward and backward, got {type(pair).__name__}{size}")


def _is_pair(pair: Any) -> bool:
    return type(pair) in (tuple, list) and len(pair) == 2


def _layer(pair: tuple[Cell, Cell], params, xs: Array, state, key: Key, options: dict[str, Any]):
    """Returns the outputs of both directions side by side, and the pair of final states."""
    states = (None, None) if state is None else state
    keys = split(key, 2)
    forward_ys, forward_state = unroll(pair[0], params[0], xs, states[0], key=keys[0], **options)
    options = options | {"resets": _resets_in_reverse(**options)}
    backward_ys, backward_state = unroll(pair[1], params[1], xs, states[1], key=keys[1], reverse=True, **options)
    return jnp.concatenate([forward_ys, backward_ys], axis=-1), (forward_state, backward_state)


def _resets_in_reverse(
    resets: Any = None, lengths: Any = None, mask: Any = None, time_major: bool = False, **others: Any
) -> Bool[Array, "..."] | None:
    """Returns the resets by which reversed sequences are cut where `resets` cut them: at the valid step before each."""
    if resets is None:
        return None
    time_axis = 0 if time_major else -1
    resets, mask = jax.tree.map(lambda flags: jnp.moveaxis(jnp.asarray(flags), time_axis, 0), (resets, mask))
    length, lengths = resets.shape[0], None if lengths is None else jnp.asarray(lengths)
    valid = valid_steps(length, lengths, mask)
    valid = jnp.ones_like(resets) if valid is None else valid
    steps = jnp.arange(length, dtype=jnp.int32).reshape(-1, *[1] * (resets.ndim - 1))
    # [T + 1, *B]: the first valid step from each on, T where there is none; and whether there is a reset before it.
    from_each = jax.lax.cummin(jnp.where(valid, steps, length), axis=0, reverse=True)
    after_each = jnp.concatenate([from_each[1:], jnp.full_like(from_each[:1], length)])
    with_end = jnp.concatenate([resets, jnp.zeros_like(resets[:1])])
    return jnp.moveaxis(jnp.take_along_axis(with_end, after_each, 0), 0, time_axis)


def _dropped(key: Key, rate: float, xs: Array, time_axis: int) -> Array:
    """Returns a sequence with dropout, a new mask at every step."""
    if key is None or not rate:
        return xs
    shape = jnp.moveaxis(xs, time_axis, 0).shape
    mask = dropout_mask(key, rate, shape, xs.dtype, variational=False)
    return xs * jnp.moveaxis(mask, 0, time_axis)
