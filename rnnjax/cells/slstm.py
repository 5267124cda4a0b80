"""The scalar LSTM of xLSTM, with exponential gates."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.gated_cell import GatedCell, GatedParams
from rnnjax.cells.initializers import Initializer
from rnnjax.cells.sizes import Size


class SLSTMState(NamedTuple):
    """Hidden state ``h``, cell state ``c``, normaliser ``n`` and stabiliser ``m``, each ``[*batch, H]``.

    c and n are kept divided by exp(m).
    """

    h: Array
    c: Array
    n: Array
    m: Array


@dataclasses.dataclass(frozen=True)
class SLSTM(GatedCell):
    """The sLSTM of xLSTM (Beck et al., 2024), an LSTM whose input gate is exponential, over a normaliser.

    i = exp(x W_xi + h W_hi + b_i)
    f = sigmoid(x W_xf + h W_hf + b_f)     forget="sigmoid"; exp of it with forget="exp"
    z = tanh(x W_xz + h W_hz + b_z)
    o = sigmoid(x W_xo + h W_ho + b_o)
    c' = f * c + i * z
    n' = f * n + i
    h' = o * c' / n';  y = h'

    c and n are kept divided by exp(m), m' = max(log f + m, log i), so that nothing overflows: n is 1 at least after the
    first step, whose m' is log i. With several heads, as published, it is ``Heads(SLSTM(H), n)``; unlike the published
    code, which compares n of all units with zero, each unit begins by itself.

    Parameters are a `GatedParams`, the gates in the order i, f, z, o.

    Attributes:
      forget: the function of the forget gate, "sigmoid" or "exp".
      forget_exponent: p of the forget gate's initial biases, 5 - 12 (k / (H - 1))^p for unit k; published for the first
        block of a stack, and 1.6 for the last. No effect with ``use_bias=False``.
      recurrent_init: as in `GatedCell`, zeros as published.

    Raises:
      ValueError: for another value of `forget`, or an exponent that is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Heads(rnnjax.SLSTM(8), 2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, params.w_h.shape, bool((state.n >= 1).all())
      ((2, 5, 8), (2, 4, 4, 4), True)
    """

    forget: Literal["sigmoid", "exp"] = "sigmoid"
    forget_exponent: float = 0.3
    _: dataclasses.KW_ONLY
    recurrent_init: str | Initializer = "zeros"

    gate_count: ClassVar[int] = 4

    def __post_init__(self):
        super().__post_init__()
        if self.forget not in ("sigmoid", "exp"):
            raise ValueError(f'forget must be "sigmoid" or "exp", got {self.forget!r}')
        if not self.forget_exponent > 0:
            raise ValueError(f"forget_exponent must be positive, got {self.forget_exponent}")

    def init(self, key: PRNGKeyArray, input_size: Size) -> GatedParams:
        params = super().init(key, input_size)
        if params.b is None:
            return params
        shares = jnp.linspace(0, 1, self.hidden_size, dtype=self.param_dtype)
        return params._replace(b=params.b.at[1].add(5 - 12 * shares**self.forget_exponent))

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> SLSTMState:
        return SLSTMState(*[self.zeros(batch_size, self.hidden_size, dtype)] * 4)

    def gates(
        self, params: GatedParams, state: SLSTMState, z: Float[Array, "*B G H"], r: Float[Array, "*B G H"]
    ) -> SLSTMState:
        sums = z + r
        log_i, before_f, before_z, before_o = (sums[..., gate, :] for gate in range(4))
        kept = state.m + (before_f if self.forget == "exp" else jax.nn.log_sigmoid(before_f))
        # Before the first step there is nothing to keep, whatever its size.
        kept = jnp.where(state.n == 0, jnp.finfo(kept.dtype).min, kept)
        m = jnp.maximum(kept, log_i)
        i, f = jnp.exp(log_i - m), jnp.exp(kept - m)
        c = f * state.c + i * jnp.tanh(before_z)
        n = f * state.n + i
        return SLSTMState(jax.nn.sigmoid(before_o) * c / n, c, n, m)
