"""The independently recurrent network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.activations import Activation, activation_function
from rnnjax.cells.diagonal_cell import DiagonalCell, DiagonalParams
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.dtypes import at_least_float32


@dataclasses.dataclass(frozen=True)
class IndRNN(DiagonalCell):
    """The independently recurrent network (Li et al., 2018, "Building a longer and deeper RNN").

    h' = activation(x W + u * h + b);  y = h'

    Parameters are `DiagonalParams` with one gate, u being ``w_h``; the state is `HiddenState`. As published, u starts
    uniform in [0, recurrent_limit], in [0, 1] without a limit.

    Attributes:
      activation: a name (``"relu"``, ``"tanh"``, ...) or a pointwise function.
      recurrent_limit: the largest size of u, to which it is clipped; None: not clipped. With ``"relu"`` the paper takes
        2 ** (1 / T) for sequences of T steps, so that neither states nor gradients explode.

    Raises:
      ValueError: for an unknown activation, or a limit that is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.IndRNN(8, recurrent_limit=2 ** (1 / 5))
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, params.w_h.shape
      ((2, 5, 8), (1, 8))
    """

    activation: str | Activation = "relu"
    recurrent_limit: float | None = None

    def __post_init__(self):
        super().__post_init__()
        activation_function(self.activation)
        if self.recurrent_limit is not None and not self.recurrent_limit > 0:
            raise ValueError(f"recurrent_limit must be positive, or None for none, got {self.recurrent_limit}")

    def published_recurrent(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, " H"]:
        largest = 1.0 if self.recurrent_limit is None else self.recurrent_limit
        return jax.random.uniform(key, shape, at_least_float32(dtype), 0.0, largest).astype(dtype)

    def advance(self, params: DiagonalParams, state: HiddenState, z: Float[Array, "*N 1 H"]) -> HiddenState:
        if self.recurrent_limit is not None:
            w_h = jnp.clip(params.w_h, -self.recurrent_limit, self.recurrent_limit)
            params = params._replace(w_h=w_h)
        return super().advance(params, state, z)

    def gates(self, params: DiagonalParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        return HiddenState(activation_function(self.activation)((z + r)[..., 0, :]))
