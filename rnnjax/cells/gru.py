"""The gated recurrent unit, with the reset gate after or before the product."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.activations import Activation, activation_function, complement
from rnnjax.cells.blocks import RecurrentWeight
from rnnjax.cells.cell import compute_dtype
from rnnjax.cells.gated_cell import GatedCell, recurrent_product
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.initializers import vector_initializer
from rnnjax.cells.sizes import Size, check_size


class GRUParams(NamedTuple):
    """Parameters, with the gates in the order r, z, n: ``w_x [I, 3, H]``, ``w_h [H, 3, H]``, ``b [3, H]``.

    ``b_hn [H]`` is the recurrent bias of the candidate, None with ``reset="before"``. Both biases are None with
    ``use_bias=False``.
    """

    w_x: Array
    w_h: Array
    b: Array | Any
    b_hn: Array | Any


@dataclasses.dataclass(frozen=True)
class GRU(GatedCell):
    """The gated recurrent unit (Cho et al., 2014).

    r = sigmoid(x W_xr + h W_hr + b_r)
    z = sigmoid(x W_xz + h W_hz + b_z)
    n = tanh(x W_xn + b_n + r * (h W_hn + b_hn))      reset="after", as cuDNN and PyTorch have it
    n = tanh(x W_xn + b_n + (r * h) W_hn)             reset="before", the original, as TensorFlow 1 has it
    h' = (1 - z) * n + z * h;  y = h'

    `activation` replaces tanh, and `gate_activation` the sigmoid.

    Attributes:
      reset: whether the reset gate is applied "after" or "before" the candidate's product.
      activation, gate_activation: names (``"tanh"``, ``"relu"``, ...) or pointwise functions.

    Raises:
      ValueError: for another value of `reset`, or an unknown activation.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, params.w_h.shape
      ((2, 5, 8), (8, 3, 8))
    """

    reset: Literal["after", "before"] = "after"
    activation: str | Activation = "tanh"
    gate_activation: str | Activation = "sigmoid"

    gate_count: ClassVar[int] = 3

    def __post_init__(self):
        super().__post_init__()
        for choice in (self.activation, self.gate_activation):
            activation_function(choice)
        if self.reset not in ("after", "before"):
            raise ValueError(f'reset must be "after" or "before", got {self.reset!r}')

    @property
    def pointwise(self) -> bool:
        return self.reset == "after"

    def init(self, key: PRNGKeyArray, input_size: Size) -> GRUParams:
        check_size("input_size", input_size)
        k_gates, k_bias = jax.random.split(key)
        b_hn = None
        if self.use_bias and self.reset == "after":
            b_hn = vector_initializer(self.bias_init)(k_bias, (self.hidden_size,), self.param_dtype)
        return GRUParams(*self.init_gates(k_gates, input_size, 3), b_hn)

    def recurrent_weight(self, params: GRUParams) -> RecurrentWeight:
        return params.w_h if self.reset == "after" else params.w_h[:, :2]

    def gates(self, params: GRUParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        gate, activation = activation_function(self.gate_activation), activation_function(self.activation)
        reset = gate(z[..., 0, :] + r[..., 0, :])
        update = z[..., 1, :] + r[..., 1, :]
        if self.reset == "before":
            recurrent = recurrent_product(reset * state.h, params.w_h[:, 2], compute_dtype(z))
        else:
            recurrent = reset * (r[..., 2, :] if params.b_hn is None else r[..., 2, :] + params.b_hn)
        candidate = activation(z[..., 2, :] + recurrent)
        return HiddenState(complement(gate, update) * candidate + gate(update) * state.h)
