"""The gated recurrent unit, with the reset gate after or before the product."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import GatedCell, HiddenState, check_size, compute_dtype, recurrent_product
from rnnjax.cells.initializers import vector_initializer
from rnnjax.cells.sizes import Size


class GRUParams(NamedTuple):
    """Gates in the order r, z, n: ``w_x [I, 3, H]``, ``w_h [H, 3, H]``, ``b [3, H]``.

    ``b_hn [H]`` is the candidate's own recurrent bias; None where the reset comes before the product.
    """

    w_x: Array
    w_h: Array
    b: Array
    b_hn: Array | None


@dataclasses.dataclass(frozen=True)
class GRU(GatedCell):
    """The gated recurrent unit (Cho et al., 2014).

    r = sigmoid(x W_xr + h W_hr + b_r)
    z = sigmoid(x W_xz + h W_hz + b_z)
    n = tanh(x W_xn + b_n + r * (h W_hn + b_hn))      reset="after", as cuDNN and PyTorch have it
    n = tanh(x W_xn + b_n + (r * h) W_hn)             reset="before", the original, as TensorFlow 1 has it
    h' = (1 - z) * n + z * h;  y = h'

    Attributes:
      reset: whether the reset gate is applied "after" or "before" the candidate's product.

    Raises:
      ValueError: for another value of `reset`.
    """

    reset: Literal["after", "before"] = "after"

    gate_count: ClassVar[int] = 3

    def __post_init__(self):
        super().__post_init__()
        if self.reset not in ("after", "before"):
            raise ValueError(f'reset must be "after" or "before", got {self.reset!r}')

    @property
    def pointwise(self) -> bool:
        return self.reset == "after"

    def init(self, key: PRNGKeyArray, input_size: Size) -> GRUParams:
        check_size("input_size", input_size)
        k_gates, k_bias = jax.random.split(key)
        b_hn = vector_initializer(self.bias_init)(k_bias, (self.hidden_size,), self.param_dtype)
        return GRUParams(*self.init_gates(k_gates, input_size, 3), b_hn if self.reset == "after" else None)

    def recurrent_weight(self, params: GRUParams) -> Float[Array, "H G H"]:
        return params.w_h if self.reset == "after" else params.w_h[:, :2]

    def gates(self, params: GRUParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        reset = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :])
        update = z[..., 1, :] + r[..., 1, :]
        if params.b_hn is not None:
            recurrent = reset * (r[..., 2, :] + params.b_hn)
        else:
            recurrent = recurrent_product(reset * state.h, params.w_h[:, 2], compute_dtype(z))
        candidate = jnp.tanh(z[..., 2, :] + recurrent)
        # 1 - sigmoid(x) would lose all digits where the gate is nearly closed, sigmoid(-x) loses none.
        return HiddenState(jax.nn.sigmoid(-update) * candidate + jax.nn.sigmoid(update) * state.h)
