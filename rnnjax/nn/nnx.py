"""Recurrent layers as Flax NNX modules; their parameters are the cells' own, each array an `nnx.Param`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from flax.errors import InvalidRngError
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.sizes import Size
from rnnjax.unrolling.bidirectional import Cells, bidirectional, drops, hashable, init_bidirectional
from rnnjax.unrolling.recurrence import Method
from rnnjax.unrolling.sequences import unroll


class RNN(nnx.Module):
    """A cell unrolled over sequences, with its parameters under the name `params`.

    Dropout is drawn from the stream `dropout` of `rngs`, which the module forks for itself when it is made. As with
    `nnx.Dropout`, `model.eval()` (or ``deterministic=True``) drops nothing and `model.train()` drops again.

    In an `nnx.Sequential`, put ``lambda ys, state: ys`` between two of them: a state is given by name alone,
    ``state=``, since a layer would otherwise start from what the one below knows at the end.

    Args:
      cell: the cell, a `Stack` for several layers.
      input_size: number I of input features.
      method, reverse, time_major: as in `rnnjax.unroll`.
      deterministic: whether nothing is dropped.
      rngs: what parameters, and dropout, are drawn from.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import rnnjax.nn.nnx
      >>> rnn = rnnjax.nn.nnx.RNN(rnnjax.LSTM(8), 3, rngs=nnx.Rngs(0))
      >>> ys, state = rnn(jnp.ones((2, 5, 3)))
      >>> ys.shape, state.c.shape
      ((2, 5, 8), (2, 8))
    """

    def __init__(
        self,
        cell: Cell,
        input_size: Size,
        *,
        method: Method | None = None,
        reverse: bool = False,
        time_major: bool = False,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ):
        self.cell, self.method, self.reverse, self.time_major = cell, method, reverse, time_major
        self.deterministic = deterministic
        self.params = nnx.data(_as_variables(cell.init(rngs.params(), input_size)))
        self.rngs = _dropout_stream(rngs, cell.stochastic)

    def __call__(
        self,
        xs: Float[Array, "*B T I"],
        *,
        state: State | None = None,
        lengths: Int[Array, " *B"] | None = None,
        mask: Bool[Array, "*B T"] | None = None,
        resets: Bool[Array, "*B T"] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "*B T O"], State]:
        """Returns the outputs and the final state, as `rnnjax.unroll` does; the last two go before the module's own."""
        return unroll(
            self.cell,
            _as_arrays(self.params),
            xs,
            state,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reverse=self.reverse,
            method=self.method,
            key=_dropout_key(self, deterministic, rngs, self.cell.stochastic),
            time_major=self.time_major,
        )


class Bidirectional(nnx.Module):
    """Cells unrolled over sequences in the two directions, in one layer or several on top of each other.

    The parameters, under `params`, are a pair, or a pair a layer, as `rnnjax.init_bidirectional` makes them. Dropout is
    drawn as by `RNN`.

    Args:
      forward_cell, backward_cell: the cells, or two lists of cells, one a layer, from the lowest to the highest.
      input_size: number I of input features.
      method, time_major: as in `rnnjax.unroll`.
      dropout: rate of dropping what a layer reads of the layer below, as in `rnnjax.bidirectional`.
      deterministic: whether nothing is dropped.
      rngs: what parameters, and dropout, are drawn from.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import rnnjax.nn.nnx
      >>> model = rnnjax.nn.nnx.Bidirectional(rnnjax.LSTM(8), rnnjax.LSTM(8), 3, rngs=nnx.Rngs(0))
      >>> ys, (forward_state, backward_state) = model(jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 16)
    """

    def __init__(
        self,
        forward_cell: Cells,
        backward_cell: Cells,
        input_size: Size,
        *,
        method: Method | None = None,
        time_major: bool = False,
        dropout: float = 0.0,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ):
        self.forward_cell = nnx.static(hashable(forward_cell))
        self.backward_cell = nnx.static(hashable(backward_cell))
        self.method, self.time_major, self.dropout, self.deterministic = method, time_major, dropout, deterministic
        self.params = nnx.data(
            _as_variables(init_bidirectional(rngs.params(), forward_cell, backward_cell, input_size))
        )
        self.rngs = _dropout_stream(rngs, drops(forward_cell, backward_cell, dropout))

    def __call__(
        self,
        xs: Float[Array, "*B T I"],
        *,
        state: Sequence[State] | None = None,
        lengths: Int[Array, " *B"] | None = None,
        mask: Bool[Array, "*B T"] | None = None,
        resets: Bool[Array, "*B T"] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "*B T O"], tuple[Any, ...]]:
        """Returns the outputs of both side by side and the final states, as `rnnjax.bidirectional` does."""
        return bidirectional(
            self.forward_cell,
            self.backward_cell,
            _as_arrays(self.params),
            xs,
            state,
            lengths=lengths,
            mask=mask,
            resets=resets,
            method=self.method,
            dropout=self.dropout,
            key=_dropout_key(self, deterministic, rngs, drops(self.forward_cell, self.backward_cell, self.dropout)),
            time_major=self.time_major,
        )


def _as_variables(params: Params) -> Any:
    return jax.tree.map(nnx.Param, params)


def _as_arrays(variables: Any) -> Params:
    return jax.tree.map(lambda each: each[...], variables, is_leaf=lambda each: isinstance(each, nnx.Variable))


def _dropout_stream(rngs: nnx.Rngs, stochastic: bool) -> Any:
    """Returns a stream of a module's own where something is dropped; a module without has no state but its weights."""
    has_one = "dropout" in rngs or "default" in rngs
    return rngs["dropout"].fork() if stochastic and has_one else nnx.data(None)


def _dropout_key(module: Any, deterministic: bool | None, rngs: nnx.Rngs | None, stochastic: bool) -> Key:
    """Returns a key for dropout, None where nothing is dropped.

    Raises:
      InvalidRngError: if cells drop something and there is no stream for it.
    """
    deterministic = module.deterministic if deterministic is None else deterministic
    if deterministic or not stochastic:
        return None
    stream = module.rngs if rngs is None else rngs["dropout"]
    if stream is None:
        raise InvalidRngError(
            f"{type(module).__name__} has dropout but no stream for it; make it with rngs=nnx.Rngs(..., dropout=seed), "
            "or call eval() or give deterministic=True in evaluation"
        )
    return stream()
