"""Recurrent layers as Flax Linen modules; their parameters are the cells' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from flax.errors import InvalidRngError
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell, Key, State
from rnnjax.unrolling.bidirectional import Cells, bidirectional, drops, hashable, input_sizes, layers
from rnnjax.unrolling.checks import check_inputs
from rnnjax.unrolling.recurrence import Method
from rnnjax.unrolling.sequences import unroll


class RNN(nn.Module):
    """A cell unrolled over sequences, with its parameters under the name `rnn`.

    Dropout is drawn from the rng `dropout`. As with Flax's own, where cells have dropout that rng must be given or
    `deterministic` be true, which drops nothing; initialising needs neither.

    `nn.Sequential` hands all that a layer returns to the next one, which refuses the final state of this one (it would
    start from what this one knows at the end): put ``lambda ys, state: ys`` between them, or make one layer of a
    `Stack`. Hence a state is given by name, ``state=``.

    Attributes:
      cell: the cell, a `Stack` for several layers.
      method, reverse, time_major: as in `rnnjax.unroll`.
      deterministic: whether nothing is dropped by a call that does not say so itself; for `nn.vmap`, `nn.remat` and
        `nn.jit`, which hand no such option on as it is.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> model = rnnjax.nn.RNN(rnnjax.LSTM(8))
      >>> xs = jnp.ones((2, 5, 3))
      >>> variables = model.init(jax.random.key(0), xs)
      >>> ys, state = model.apply(variables, xs, lengths=jnp.array([5, 2]))
      >>> ys.shape
      (2, 5, 8)
    """

    cell: Cell
    method: Method | None = None
    reverse: bool = False
    time_major: bool = False
    deterministic: bool = False

    @nn.compact
    def __call__(
        self,
        xs: Float[Array, "*B T I"],
        *,
        state: State | None = None,
        lengths: Int[Array, " *B"] | None = None,
        mask: Bool[Array, "*B T"] | None = None,
        resets: Bool[Array, "*B T"] | None = None,
        deterministic: bool | None = None,
    ) -> tuple[Float[Array, "*B T O"], State]:
        """Returns the outputs and the final state, as `rnnjax.unroll` does."""
        xs = check_inputs(xs)
        options = {"lengths": lengths, "mask": mask, "resets": resets, "deterministic": deterministic}
        return unrolled(self, unroll, xs.shape[-1], xs, state, **options)


class Bidirectional(nn.Module):
    """Cells unrolled over sequences in the two directions, in one layer or several on top of each other.

    Parameters are under `forward` and `backward`; with lists of cells under `forward_0`, `backward_0`, `forward_1`, and
    so on, from the lowest layer to the highest.

    Attributes:
      forward_cell, backward_cell: the cells, or two lists of cells, one a layer.
      method, time_major: as in `rnnjax.unroll`.
      dropout: rate of dropping what a layer reads of the layer below, as in `rnnjax.bidirectional`.
      deterministic: as in `RNN`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> model = rnnjax.nn.Bidirectional(rnnjax.LSTM(8), rnnjax.LSTM(8))
      >>> xs = jnp.ones((2, 5, 3))
      >>> variables = model.init(jax.random.key(0), xs)
      >>> ys, (forward_state, backward_state) = model.apply(variables, xs)
      >>> ys.shape
      (2, 5, 16)
    """

    forward_cell: Cells
    backward_cell: Cells
    method: Method | None = None
    time_major: bool = False
    dropout: float = 0.0
    deterministic: bool = False

    def __post_init__(self):
        self.forward_cell, self.backward_cell = hashable(self.forward_cell), hashable(self.backward_cell)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        xs: Float[Array, "*B T I"],
        *,
        state: Sequence[State] | None = None,
        lengths: Int[Array, " *B"] | None = None,
        mask: Bool[Array, "*B T"] | None = None,
        resets: Bool[Array, "*B T"] | None = None,
        deterministic: bool | None = None,
    ) -> tuple[Float[Array, "*B T O"], tuple[Any, Any]]:
        """Returns the outputs of both side by side and the final states, as `rnnjax.bidirectional` does."""
        xs = check_inputs(xs)
        return bidirectional(
            self.forward_cell,
            self.backward_cell,
            self._parameters(xs.shape[-1]),
            xs,
            state,
            lengths=lengths,
            mask=mask,
            resets=resets,
            method=self.method,
            dropout=self.dropout,
            key=dropout_key(self, deterministic, drops(self.forward_cell, self.backward_cell, self.dropout)),
            time_major=self.time_major,
        )

    def _parameters(self, input_size: int) -> tuple:
        """Returns the pair of parameters of a single layer, or one pair per layer."""
        pairs = layers(self.forward_cell, self.backward_cell)
        single = isinstance(self.forward_cell, Cell)
        params = [
            tuple(
                self.param(way if single else f"{way}_{layer}", cell.init, size)
                for way, cell in zip(("forward", "backward"), pair)
            )
            for layer, (pair, size) in enumerate(zip(pairs, input_sizes(pairs, input_size)))
        ]
        return params[0] if single else tuple(params)


def unrolled(
    module: Any,
    unroll: Callable,
    input_size: int,
    inputs: Array,
    state: State | None,
    *,
    deterministic: bool | None = None,
    **options: Any,
) -> tuple[Float[Array, "*B T O"], State]:
    """Returns the outputs and the final state of a module's cell, whose parameters are under the name `rnn`.

    Args:
      module: the module: its `cell`, and how it is unrolled.
      unroll: `rnnjax.unroll`, or a function of the same arguments that reads other inputs.
      input_size: number I of input features.
      inputs: the inputs, as `unroll` takes them.
      state: the state before the first step; None takes the cell's own.
      deterministic: whether nothing is dropped; None: as the module says.
      **options: as in `unroll`.
    """
    params = module.param("rnn", module.cell.init, input_size)
    key = dropout_key(module, deterministic, module.cell.stochastic)
    how = {"reverse": module.reverse, "method": module.method, "time_major": module.time_major}
    return unroll(module.cell, params, inputs, state, key=key, **how, **options)


def dropout_key(module: Any, deterministic: bool | None, stochastic: bool) -> Key:
    """Returns a module's key for dropout, None where nothing is dropped.

    Raises:
      InvalidRngError: if the module's cells are `stochastic` and there is no key for them.
      TypeError: if whether something is dropped is known only when the program runs.
    """
    deterministic = module.deterministic if deterministic is None else deterministic
    if isinstance(deterministic, Tracer):
        raise TypeError(
            f"deterministic must be known when {type(module).__name__} is traced, got a traced value; make the module "
            "with deterministic=True, as for nn.remat and nn.jit, or have it a static argument of jax.jit"
        )
    if deterministic:
        return None
    if module.has_rng("dropout"):
        return module.make_rng("dropout")
    if stochastic and not module.is_initializing():
        raise InvalidRngError(
            f"{type(module).__name__} has dropout but no key for it; give rngs={{'dropout': key}} in training, or "
            "deterministic=True in evaluation"
        )
    return None
