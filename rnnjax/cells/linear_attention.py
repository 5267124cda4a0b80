"""Linear attention as a cell: its state is a matrix a head, to which every step adds one outer product."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rnnjax.cells.cell import compute_dtype
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.linear_cell import LinearCell, LinearParams
from rnnjax.cells.sizes import keep_sizes


@dataclasses.dataclass(frozen=True)
class GatedLinearAttention(LinearCell):
    """Attention to all steps so far by a matrix of their keys and values (Yang et al., 2024, "Gated linear attention").

    q = x W_q + b_q;  k = x W_k + b_k;  v = x W_v + b_v
    a = sigmoid(x W_a + b_a)^(1 / sharpness)
    S' = a * S + k v^T                 in each of n heads, a and k along the rows of S
    y = S'^T q / sqrt(K)

    Heads have K = H / n keys and as many values. Parameters are `LinearParams` with the gates q, k, v, a; here W_a is
    whole where the paper's is a product of two thin matrices, and the normalisation and the gate of the paper's outputs
    belong to the block around it. The state is `HiddenState`, its h being S, ``[*batch, n, K, K]``. The states of all
    steps are K times those of a cell of H units, and a gradient keeps them, by `Scan` too: give `remat_every` to
    `Associative` or `Scan` for long sequences, about sqrt(T).

    With a bias b_a that keeps the gate open, a is 1, and this is linear attention (Katharopoulos et al., 2020) without
    its feature map and its normaliser. The delta rule, whose matrices are multiplied by matrices, is no `LinearCell`,
    but a `Cell`.

    Attributes:
      heads: number n of heads.
      sharpness: the root that is taken of the gates, which keeps them near 1; the paper's is 16.

    Raises:
      ValueError: unless the heads divide the hidden size, and sharpness is positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GatedLinearAttention(8, heads=2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 2, 4, 4))
    """

    heads: int = 1
    sharpness: float = 16.0

    gate_count: ClassVar[int] = 4

    def __post_init__(self):
        super().__post_init__()
        keep_sizes(self, "heads")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide the hidden size {self.hidden_size}, got {self.heads}")
        if not self.sharpness > 0:
            raise ValueError(f"sharpness must be positive, got {self.sharpness}")

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> HiddenState:
        keys = self.hidden_size // self.heads
        return HiddenState(self.zeros(batch_size, (self.heads, keys, keys), dtype))

    def coefficients(self, params: LinearParams, zs: Float[Array, "*N 4 H"]) -> tuple[Array, Array]:
        _, keys, values, gates = self._by_head(zs)
        factors = jnp.exp(jax.nn.log_sigmoid(gates) / self.sharpness)
        return factors[..., :, None], keys[..., :, None] * values[..., None, :]

    def read(self, params: LinearParams, state: HiddenState, z: Float[Array, "*N 4 H"]) -> Float[Array, "*N H"]:
        queries = self._by_head(z)[0].astype(state.h.dtype)
        ys = jnp.einsum("...nk,...nkv->...nv", queries, state.h) / math.sqrt(queries.shape[-1])
        return ys.reshape(*ys.shape[:-2], self.hidden_size).astype(compute_dtype(z))

    def _by_head(self, zs: Float[Array, "*N 4 H"]) -> list[Float[Array, "*N n K"]]:
        """Returns q, k, v and the gates of every head."""
        return [zs[..., gate, :].reshape(*zs.shape[:-2], self.heads, -1) for gate in range(self.gate_count)]
