"""The quasi-recurrent network's pooling over time."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import compute_dtype
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.linear_cell import LinearCell, LinearParams


@dataclasses.dataclass(frozen=True)
class QRNN(LinearCell):
    """The quasi-recurrent network (Bradbury et al., 2017), with filters that read one step.

    n = tanh(x W_n + b_n)
    f = sigmoid(x W_f + b_f)
    c' = f * c + (1 - f) * n;  y = c'            pooling="f"
    o = sigmoid(x W_o + b_o);  y = o * c'        pooling="fo"
    i = sigmoid(x W_i + b_i)
    c' = f * c + i * n;  y = o * c'              pooling="ifo"

    Parameters are `LinearParams` with the gates n, f, o, i, as many as the pooling has; the paper publishes no
    initialisation, and here it is that of `kernel_init` and `bias_init`. The state is `HiddenState`, its h being c.
    For filters that read k steps, give inputs that hold k steps side by side. The paper's dropout of f is `Zoneout`.

    Attributes:
      pooling: "f", "fo" or "ifo".

    Raises:
      ValueError: for another pooling.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.QRNN(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, params.w_x.shape
      ((2, 5, 8), (3, 3, 8))
    """

    pooling: Literal["f", "fo", "ifo"] = "fo"

    def __post_init__(self):
        super().__post_init__()
        if self.pooling not in ("f", "fo", "ifo"):
            raise ValueError(f'pooling must be "f", "fo" or "ifo", got {self.pooling!r}')

    @property
    def gate_count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 + len(self.pooling)

    def coefficients(self, params: LinearParams, zs: Float[Array, "*N G H"]) -> tuple[Array, Array]:
        candidate, forget = jnp.tanh(zs[..., 0, :]), zs[..., 1, :]
        admit = zs[..., 3, :] if self.pooling == "ifo" else -forget
        return jax.nn.sigmoid(forget), jax.nn.sigmoid(admit) * candidate

    def read(self, params: LinearParams, state: HiddenState, z: Float[Array, "*N G H"]) -> Array:
        if self.pooling == "f":
            return state.h.astype(compute_dtype(z))
        output = jax.nn.sigmoid(z[..., 2, :].astype(state.h.dtype))
        return (output * state.h).astype(compute_dtype(z))
