"""The long short-term memory cell and its variations."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.activations import Activation, activation_function, complement
from rnnjax.cells.cell import compute_dtype
from rnnjax.cells.gated_cell import GatedCell, recurrent_product
from rnnjax.cells.hidden_cell import add_bias
from rnnjax.cells.initializers import gate_vectors, initializer, vector_initializer
from rnnjax.cells.normalising import normalised
from rnnjax.cells.sizes import Size, check_size, keep_sizes


class LSTMState(NamedTuple):
    """Hidden state ``h [*batch, O]`` and cell state ``c [*batch, H]``."""

    h: Array
    c: Array


class LSTMNorm(NamedTuple):
    """Parameters of layer normalisation: the scales, and the shift of the cell state.

    Scales are ``x [G, H]`` of the projected inputs, ``h [G, H]`` of the recurrent product and ``c [H]`` of the cell
    state; its shift is ``c_bias [H]``. (The gates are shifted by the cell's ``b``.)
    """

    x: Array
    h: Array
    c: Array
    c_bias: Array


class LSTMParams(NamedTuple):
    """Parameters, with the gates in the order i, f, g, o: ``w_x [I, G, H]``, ``w_h [O, G, H]``, ``b [G, H]``.

    With coupled gates, the order is f, g, o. The following are None where the cell does not have them: ``b``;
    ``peephole [3, H]``, the weights from c to i, f, o (``[2, H]``, to f, o, with coupled gates); ``w_p [H, O]``, the
    projection; ``norm``, the layer normalisation.
    """

    w_x: Array
    w_h: Array
    b: Array | Any
    peephole: Array | Any = None
    w_p: Array | Any = None
    norm: LSTMNorm | Any = None


@dataclasses.dataclass(frozen=True)
class LSTM(GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997) with a forget gate (Gers et al., 2000).

    i = sigmoid(x W_xi + h W_hi + p_i * c + b_i)
    f = sigmoid(x W_xf + h W_hf + p_f * c + b_f)
    g = tanh(x W_xg + h W_hg + b_g)
    c' = f * c + i * g
    o = sigmoid(x W_xo + h W_ho + p_o * c' + b_o)
    h' = o * tanh(c');  y = h'

    The terms with p are present with `peephole` (Gers and Schmidhuber, 2000). `activation` replaces both tanh, and
    `gate_activation` the sigmoid.

    Attributes:
      forget_bias: initial bias of the forget gate; no effect with ``use_bias=False``.
      peephole: whether the gates read the cell state, each through a vector of weights, initialised by `kernel_init`.
      projection_size: if given, h' = (o * tanh(c')) W_p has this size (Sak et al., 2014).
      cell_clip: if given, c' is clipped to plus or minus this value.
      projection_clip: if given, the projected h' is clipped to plus or minus this value.
      coupled_gates: whether i = 1 - f (Greff et al., 2017).
      layer_norm: whether to normalise x W_x, h W_h (each over all gates together), and c' where the output reads it
        (Ba et al., 2016).
      activation, gate_activation: names (``"tanh"``, ``"relu"``, ...) or pointwise functions.

    Raises:
      ValueError: for an unknown activation, a projection_clip without a projection, clips that are not positive, or
        peepholes with ``kernel_init="orthogonal"``.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.LSTM(8, peephole=True, projection_size=4)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, state.h.shape, state.c.shape
      ((2, 5, 4), (2, 4), (2, 8))
    """

    forget_bias: float = 1.0
    peephole: bool = False
    projection_size: int | None = None
    cell_clip: float | None = None
    projection_clip: float | None = None
    coupled_gates: bool = False
    layer_norm: bool = False
    activation: str | Activation = "tanh"
    gate_activation: str | Activation = "sigmoid"

    def __post_init__(self):
        super().__post_init__()
        for choice in (self.activation, self.gate_activation):
            activation_function(choice)
        if self.peephole:
            vector_initializer(self.kernel_init)
        keep_sizes(self, optional=("projection_size",))
        if self.projection_size is None and self.projection_clip is not None:
            raise ValueError(f"projection_clip={self.projection_clip} needs a projection_size")
        for name in ("cell_clip", "projection_clip"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, got {limit}")

    @property
    def output_size(self) -> int:
        return self.projection_size or self.hidden_size

    @property
    def pointwise(self) -> bool:
        return self.projection_size is None and not self.layer_norm

    def init(self, key: PRNGKeyArray, input_size: Size) -> LSTMParams:
        check_size("input_size", input_size)
        k_gates, k_peephole, k_projection = jax.random.split(key, 3)
        w_x, w_h, b = self.init_gates(k_gates, input_size, 3 if self.coupled_gates else 4)
        b = None if b is None else b.at[0 if self.coupled_gates else 1].add(self.forget_bias)
        return LSTMParams(
            w_x, w_h, b, self._init_peephole(k_peephole), self._init_projection(k_projection), self._init_norm()
        )

    def _init_peephole(self, key: PRNGKeyArray) -> Array | None:
        if not self.peephole:
            return None
        gates = 2 if self.coupled_gates else 3
        return gate_vectors(self.kernel_init, key, gates, self.hidden_size, self.param_dtype)

    def _init_projection(self, key: PRNGKeyArray) -> Array | None:
        if self.projection_size is None:
            return None
        return initializer(self.kernel_init)(key, (self.hidden_size, self.projection_size), self.param_dtype)

    def _init_norm(self) -> LSTMNorm | None:
        if not self.layer_norm:
            return None
        gates = jnp.ones((3 if self.coupled_gates else 4, self.hidden_size), self.param_dtype)
        return LSTMNorm(gates, gates, gates[0], jnp.zeros_like(gates[0]))

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMState:
        return LSTMState(
            self.zeros(batch_size, self.output_size, dtype), self.zeros(batch_size, self.hidden_size, dtype)
        )

    def gate_inputs(self, params: LSTMParams, zs: Float[Array, "*N G H"]) -> Float[Array, "*N G H"]:
        if params.norm is not None:
            zs = normalised(zs, (-2, -1)) * params.norm.x.astype(zs.dtype)
        return add_bias(zs, params.b)

    def gates(self, params: LSTMParams, state: LSTMState, z: Array, r: Array) -> LSTMState:
        if params.norm is not None:
            r = normalised(r, (-2, -1)) * params.norm.h
        gate = activation_function(self.gate_activation)
        activation = activation_function(self.activation)
        sums = z + r
        before_i_and_f, before_g, before_o = sums[..., :-2, :], sums[..., -2, :], sums[..., -1, :]
        if params.peephole is not None:
            before_i_and_f = before_i_and_f + params.peephole[:-1] * state.c[..., None, :]
        # With coupled gates there is one entry, that of f.
        before_i, before_f = before_i_and_f[..., 0, :], before_i_and_f[..., -1, :]
        i = complement(gate, before_f) if self.coupled_gates else gate(before_i)
        c = gate(before_f) * state.c + i * activation(before_g)
        if self.cell_clip is not None:
            c = jnp.clip(c, -self.cell_clip, self.cell_clip)
        if params.peephole is not None:
            before_o = before_o + params.peephole[-1] * c
        shown = c if params.norm is None else normalised(c, -1) * params.norm.c + params.norm.c_bias
        h = gate(before_o) * activation(shown)
        return LSTMState(self._project(params, h, compute_dtype(z)), c)

    def _project(self, params: LSTMParams, h: Array, dtype: DTypeLike) -> Array:
        """Returns the hidden state after the projection and its clipping, if the cell has them."""
        if params.w_p is None:
            return h
        h = recurrent_product(h, params.w_p, dtype)
        return h if self.projection_clip is None else jnp.clip(h, -self.projection_clip, self.projection_clip)
