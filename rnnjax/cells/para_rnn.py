"""The GRU and the LSTM of ParaRNN, whose recurrent weights are diagonal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.activations import complement
from rnnjax.cells.diagonal_cell import DiagonalCell, DiagonalParams
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.lstm import LSTMState
from rnnjax.cells.sizes import Size
from rnnjax.dtypes import at_least_float32


class _ParaCell(DiagonalCell):
    """What the cells of ParaRNN share: how they start."""

    def published_recurrent(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, " H"]:
        deviation = 2 / math.sqrt(5 * self.hidden_size)
        return (deviation * jax.random.normal(key, shape, at_least_float32(dtype))).astype(dtype)

    def init_gates(self, key: PRNGKeyArray, input_size: Size) -> tuple[Array, Array, Array | None]:
        w_x, w_h, b = super().init_gates(key, input_size)
        spread = jnp.linspace(0, 1, self.hidden_size, dtype=self.param_dtype)
        return w_x, w_h, None if b is None else b.at[0].add(-spread)


@dataclasses.dataclass(frozen=True)
class ParaGRU(_ParaCell):
    """The GRU with diagonal recurrent weights (Danieli et al., 2025, "ParaRNN").

    z = sigmoid(x W_z + a_z * h + b_z)
    r = sigmoid(x W_r + a_r * h + b_r)
    n = tanh(x W_n + a_n * (r * h) + b_n)
    h' = (1 - z) * h + z * n;  y = h'

    Parameters are `DiagonalParams` with the gates z, r, n, a being ``w_h``; the state is `HiddenState`. As published, a
    starts normal with standard deviation 2 / sqrt(5 H), W by Glorot's uniform initialiser, and b at zero but for b_z,
    which goes from 0 in the first unit to -1 in the last. The paper's W are in blocks of heads; here they are whole.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.ParaGRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, params.w_h.shape
      ((2, 5, 8), (3, 8))
    """

    gate_count: ClassVar[int] = 3

    def gates(self, params: DiagonalParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        update, reset = z[..., 0, :] + r[..., 0, :], jax.nn.sigmoid(z[..., 1, :] + r[..., 1, :])
        candidate = jnp.tanh(z[..., 2, :] + reset * r[..., 2, :])
        return HiddenState(complement(jax.nn.sigmoid, update) * state.h + jax.nn.sigmoid(update) * candidate)


class ParaLSTMParams(NamedTuple):
    """Those of `DiagonalParams`, and the peepholes ``w_c [2, H]`` of the gates f and o."""

    w_x: Array
    w_h: Array
    b: Array | Any
    w_c: Array


@dataclasses.dataclass(frozen=True)
class ParaLSTM(_ParaCell):
    """The LSTM with diagonal recurrent weights, peepholes and coupled gates (Danieli et al., 2025, "ParaRNN").

    f = sigmoid(x W_f + a_f * h + p_f * c + b_f)
    n = tanh(x W_n + a_n * h + b_n)
    c' = f * c + (1 - f) * n
    o = sigmoid(x W_o + a_o * h + p_o * c' + b_o)
    h' = o * tanh(c');  y = h'

    Parameters are `ParaLSTMParams` with the gates f, n, o, a being ``w_h`` and p ``w_c``; the state is `LSTMState`. As
    published, a and p start normal with standard deviation 2 / sqrt(5 H), W by Glorot's uniform initialiser, and b at
    zero but for b_f, which goes from 0 in the first unit to -1 in the last. The paper's W are in blocks of heads; here
    they are whole.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.ParaLSTM(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, state.c.shape, params.w_c.shape
      ((2, 5, 8), (2, 8), (2, 8))
    """

    gate_count: ClassVar[int] = 3

    def init(self, key: PRNGKeyArray, input_size: Size) -> ParaLSTMParams:
        k_gates, k_c = jax.random.split(key)
        return ParaLSTMParams(*self.init_gates(k_gates, input_size), self.vectors(k_c, 2))

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMState:
        zeros = self.zeros(batch_size, self.hidden_size, dtype)
        return LSTMState(zeros, zeros)

    def gates(self, params: ParaLSTMParams, state: LSTMState, z: Array, r: Array) -> LSTMState:
        forget, candidate, output = jnp.moveaxis(z + r, -2, 0)
        peepholes = params.w_c.astype(state.c.dtype)
        # In full, so that their gradient is one sum.
        of_forget, of_output = (jnp.broadcast_to(each, state.c.shape) for each in peepholes)
        forget = forget + of_forget * state.c
        kept = jax.nn.sigmoid(forget) * state.c
        c = kept + complement(jax.nn.sigmoid, forget) * jnp.tanh(candidate)
        return LSTMState(jax.nn.sigmoid(output + of_output * c) * jnp.tanh(c), c)
