"""The minimal GRU and LSTM, whose gates read the input alone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.linear_cell import LinearCell, LinearParams


@dataclasses.dataclass(frozen=True)
class MinGRU(LinearCell):
    """The minimal gated recurrent unit (Feng et al., 2024, "Were RNNs all we needed?").

    z = sigmoid(x W_z + b_z)
    n = x W_n + b_n                  or, with `positive`, g(x W_n + b_n)
    h' = (1 - z) * h + z * n;  y = h'

    with g(x) = x + 0.5 for x >= 0 and sigmoid(x) elsewhere, the candidate of the paper's log-space form. That form
    computes the same numbers by sums of logarithms, which this one does not need: `linear_scan` divides by nothing.
    Parameters are `LinearParams` with the gates z, n; the paper publishes no initialisation, and here it is that of
    `kernel_init` and `bias_init`. The state is `HiddenState`.

    Attributes:
      positive: whether candidates, and so states from zero on, are positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.MinGRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, params.w_x.shape
      ((2, 5, 8), (3, 2, 8))
    """

    positive: bool = False

    gate_count: ClassVar[int] = 2

    def coefficients(self, params: LinearParams, zs: Float[Array, "*N 2 H"]) -> tuple[Array, Array]:
        update, candidate = zs[..., 0, :], zs[..., 1, :]
        candidate = _positive(candidate) if self.positive else candidate
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * candidate


@dataclasses.dataclass(frozen=True)
class MinLSTM(LinearCell):
    """The minimal long short-term memory (Feng et al., 2024, "Were RNNs all we needed?").

    f = sigmoid(x W_f + b_f)
    i = sigmoid(x W_i + b_i)
    n = x W_n + b_n                  or, with `positive`, g(x W_n + b_n)
    h' = f / (f + i) * h + i / (f + i) * n;  y = h'

    with g as in `MinGRU`. The shares are computed from the gates' logarithms, and are right where both gates are
    closed. Parameters are `LinearParams` with the gates f, i, n; the paper publishes no initialisation, and here it is
    that of `kernel_init` and `bias_init`. The state is `HiddenState`.

    Attributes:
      positive: whether candidates, and so states from zero on, are positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.MinLSTM(8, positive=True)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, bool((ys > 0).all())
      ((2, 5, 8), True)
    """

    positive: bool = False

    gate_count: ClassVar[int] = 3

    def coefficients(self, params: LinearParams, zs: Float[Array, "*N 3 H"]) -> tuple[Array, Array]:
        forget, admit, candidate = zs[..., 0, :], zs[..., 1, :], zs[..., 2, :]
        candidate = _positive(candidate) if self.positive else candidate
        log_ratio = jax.nn.softplus(-admit) - jax.nn.softplus(-forget)  # of f to i
        return jax.nn.sigmoid(log_ratio), jax.nn.sigmoid(-log_ratio) * candidate


def _positive(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Returns the paper's g(x), which is positive, continuous and increasing."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))
