"""The gated delta rule: a memory of keys and values that is corrected by what it gets wrong."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Key
from rnnjax.cells.checks import check_switch
from rnnjax.cells.hidden_cell import add_bias
from rnnjax.cells.initializers import gate_kernels, gate_vectors
from rnnjax.cells.memory_cell import Association, MemoryCell
from rnnjax.cells.projecting import project
from rnnjax.cells.sizes import Size, check_size
from rnnjax.dtypes import at_least_float32

_FASTEST = 16.0  # of A at first, uniform from 1
_STEPS = 1e-3, 1e-1  # of softplus(b) at first, uniform in their logarithms
_LEAST = 1e-6  # under the root of a norm, whose derivative is infinite at zero


class GatedDeltaNetParams(NamedTuple):
    """Parameters, with the gates in the order q, k, v: ``w_x [I, 3, H]``, ``b [3, H]``, None with ``use_bias=False``.

    Those of the heads are in the order decay, rate: ``w_head [I, 2, n]``, ``b_head [2, n]``, and ``log_a [n]``.
    """

    w_x: Array
    b: Array | Any
    w_head: Array
    b_head: Array
    log_a: Array


class DeltaZs(NamedTuple):
    """What the steps read: the gates ``[*N, 3, H]``, and what decides on decay and rate, ``[*N, 2, n]``."""

    gates: Array
    heads: Array


@dataclasses.dataclass(frozen=True)
class GatedDeltaNet(MemoryCell):
    """The gated delta rule (Yang, Kautz and Hatamizadeh, 2025, "Gated delta networks").

    q = norm(silu(x W_q + b_q)) / sqrt(K);  k = norm(silu(x W_k + b_k));  v = silu(x W_v + b_v)
    log_decay = -exp(log_a) softplus(x w_d + b_d)
    rate = sigmoid(x w_r + b_r)
    D = exp(log_decay) S;  S' = D + rate k (v - D^T k)^T;  y = S'^T q        in each of n heads

    norm divides by the Euclidean length, in each head. The paper's convolutions before silu, and the normalisation and
    gate of its outputs, belong to the block around the cell. As published, exp(log_a) is drawn from [1, 16], and
    softplus(b_d) from [0.001, 0.1] in its logarithm. Parameters are `GatedDeltaNetParams`, the state is `HiddenState`,
    its h being S, ``[*batch, n, K, K]`` with K = H / n.

    Attributes:
      decays: whether there is a decay; without, it is DeltaNet (Yang et al., 2024, "Parallelizing linear transformers
        with the delta rule").
      negative: whether the rate is twice as large, so that a step can turn a key's value around: what tracks a state,
        such as parity, needs these negative eigenvalues (Grazzi et al., 2025).

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GatedDeltaNet(8, heads=2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Chunkwise())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 2, 4, 4))
    """

    _: dataclasses.KW_ONLY
    decays: bool = True
    negative: bool = False

    gate_count: ClassVar[int] = 3
    inputs_by_step: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_switch("decays", self.decays)
        check_switch("negative", self.negative)

    def init(self, key: PRNGKeyArray, input_size: Size) -> GatedDeltaNetParams:
        check_size("input_size", input_size)
        k_x, k_b, k_head, k_a, k_step = jax.random.split(key, 5)
        sizes, dtype = (int(input_size), self.gate_count, self.hidden_size), self.param_dtype
        w_x = gate_kernels(self.kernel_init, k_x, *sizes, dtype)
        b = gate_vectors(self.bias_init, k_b, *sizes[1:], dtype) if self.use_bias else None
        w_head = gate_kernels(self.kernel_init, k_head, sizes[0], 2, self.heads, dtype)
        wide = at_least_float32(dtype)
        log_a = jnp.log(jax.random.uniform(k_a, (self.heads,), wide, 1.0, _FASTEST))
        log_step = jax.random.uniform(k_step, (self.heads,), wide, *map(math.log, _STEPS))
        inverse_softplus = jnp.log(jnp.expm1(jnp.exp(log_step)))
        b_head = jnp.stack([inverse_softplus, jnp.zeros(self.heads, wide)])
        return GatedDeltaNetParams(w_x, b, w_head, b_head.astype(dtype), log_a.astype(dtype))

    def inputs(self, params: GatedDeltaNetParams, xs: Float[Array, "*N I"], *, key: Key = None) -> DeltaZs:
        gates = add_bias(project(params.w_x, xs, self.dtype), params.b)
        return DeltaZs(gates, add_bias(project(params.w_head, xs, self.dtype), params.b_head))

    def association(self, params: GatedDeltaNetParams, zs: DeltaZs) -> Association:
        query, key, value = map(jax.nn.silu, self.by_head(zs.gates))
        rate = (2.0 if self.negative else 1.0) * jax.nn.sigmoid(zs.heads[..., 1, :])
        query, key = _unit(query) / math.sqrt(query.shape[-1]), _unit(key)
        return Association(query, key, value, self._log_decay(params, zs) if self.decays else None, rate)

    def _log_decay(self, params: GatedDeltaNetParams, zs: DeltaZs) -> Float[Array, "*N n 1"]:
        steps = jax.nn.softplus(zs.heads[..., 0, :])
        return (-jnp.exp(params.log_a.astype(steps.dtype)) * steps)[..., None]


def _unit(vectors: Float[Array, "*N K"]) -> Float[Array, "*N K"]:
    return vectors * jax.lax.rsqrt(jnp.square(vectors).sum(-1, keepdims=True) + _LEAST)
