"""Linear attention as a cell: its state is a matrix a head, to which every step adds one outer product."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.linear_cell import LinearCell, LinearParams
from rnnjax.cells.memory_cell import Association, MemoryCell


@dataclasses.dataclass(frozen=True)
class GatedLinearAttention(LinearCell, MemoryCell):
    """Attention to all steps so far by a matrix of their keys and values (Yang et al., 2024, "Gated linear attention").

    q = x W_q + b_q;  k = x W_k + b_k;  v = x W_v + b_v
    a = sigmoid(x W_a + b_a)^(1 / sharpness)
    S' = a * S + k v^T                 in each of n heads, a and k along the rows of S
    y = S'^T q / sqrt(K)

    Heads have K = H / n keys and as many values. Parameters are `LinearParams` with the gates q, k, v, a; here W_a is
    whole where the paper's is a product of two thin matrices, and the normalisation and the gate of the paper's outputs
    belong to the block around it. The state is `HiddenState`, its h being S, ``[*batch, n, K, K]``. It is a
    `LinearCell` as well, but the states of all steps take K times the memory of a cell of H units: long sequences are
    unrolled by `Chunkwise`, which keeps few of them.

    With a bias b_a that keeps the gate open, a is 1, and this is linear attention (Katharopoulos et al., 2020) without
    its feature map and its normaliser.

    Attributes:
      sharpness: the root that is taken of the gates, which keeps them near 1; the paper's is 16.

    Raises:
      ValueError: unless the heads divide the hidden size, and sharpness is positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GatedLinearAttention(8, heads=2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Chunkwise())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 2, 4, 4))
    """

    sharpness: float = 16.0

    gate_count: ClassVar[int] = 4

    def __post_init__(self):
        super().__post_init__()
        if not self.sharpness > 0:
            raise ValueError(f"sharpness must be positive, got {self.sharpness}")

    def association(self, params: LinearParams, zs: Float[Array, "*N 4 H"]) -> Association:
        query, key, value, gate = self.by_head(zs)
        return Association(query / math.sqrt(query.shape[-1]), key, value, jax.nn.log_sigmoid(gate) / self.sharpness)

    def coefficients(self, params: LinearParams, zs: Float[Array, "*N 4 H"]) -> tuple[Array, Array]:
        _, key, value, log_decay, _ = self.association(params, zs)
        assert log_decay is not None
        return jnp.exp(log_decay)[..., :, None], key[..., :, None] * value[..., None, :]
