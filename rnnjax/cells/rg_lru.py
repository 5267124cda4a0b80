"""The real-gated linear recurrent unit."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Key
from rnnjax.cells.hidden_cell import HiddenState, add_bias
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors
from rnnjax.cells.linear_cell import LinearCell
from rnnjax.cells.projecting import project
from rnnjax.cells.sizes import Size, check_size
from rnnjax.dtypes import at_least_float32

_SHARPNESS = 8.0  # the paper's c
_SMALLEST, _LARGEST = 0.9, 0.999  # of a^c at first


class RGLRUParams(NamedTuple):
    """Parameters, with the gates in the order r, i: ``w_x [H, 2, H]``, ``b [2, H]``, and Lambda, ``decay [H]``.

    ``w_in [I, 1, H]`` and ``b_in [1, H]`` are those of the inputs' projection, None without. Biases are None with
    ``use_bias=False``.
    """

    w_x: Array
    b: Array | Any
    decay: Array
    w_in: Array | Any
    b_in: Array | Any


class RGLRUZs(NamedTuple):
    """What the steps read: the gates' sums ``[*N, 2, H]``, and the inputs ``[*N, H]``."""

    gates: Array
    xs: Array


@dataclasses.dataclass(frozen=True)
class RGLRU(LinearCell):
    """The real-gated linear recurrent unit (De et al., 2024, "Griffin").

    r = sigmoid(x W_r + b_r)
    i = sigmoid(x W_i + b_i)
    a = sigmoid(Lambda)^(8 r)
    h' = a * h + sqrt(1 - a^2) * (i * x);  y = h'

    The inputs have H features; with `project_inputs`, x above is x W_in + b_in, as in the paper's block around the
    unit. As published, W_r and W_i are drawn by LeCun's rule (`kernel_init`), and Lambda such that sigmoid(Lambda)^8 is
    uniform in [0.9, 0.999]. The paper's own code cuts W_r and W_i into blocks; here they are whole. Parameters are
    `RGLRUParams`, the state is `HiddenState`.

    Attributes:
      project_inputs: whether the inputs, of any number of features, are projected to H first.

    Raises:
      ValueError: from `init`, for inputs of another size without `project_inputs`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.RGLRU(8, project_inputs=True)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape, params.w_x.shape
      ((2, 5, 8), (8, 2, 8))
    """

    kernel_init: str | Initializer = "lecun_normal"
    project_inputs: bool = False

    gate_count: ClassVar[int] = 2
    inputs_by_step: ClassVar[bool] = True

    def init(self, key: PRNGKeyArray, input_size: Size) -> RGLRUParams:
        check_size("input_size", input_size)
        k_gates, k_decay, k_in, k_bias = jax.random.split(key, 4)
        w_in = b_in = None
        if self.project_inputs:
            w_in = gate_kernels(self.kernel_init, k_in, int(input_size), 1, self.hidden_size, self.param_dtype)
            b_in = gate_vectors(self.bias_init, k_bias, 1, self.hidden_size, self.param_dtype)
            b_in = b_in if self.use_bias else None
        elif input_size != self.hidden_size:
            raise ValueError(
                f"RGLRU needs inputs of its size {self.hidden_size}, got {input_size}; "
                "RGLRU(..., project_inputs=True) takes any"
            )
        return RGLRUParams(*self.init_gates(k_gates, self.hidden_size), self._decay(k_decay), w_in, b_in)

    def _decay(self, key: PRNGKeyArray) -> Array:
        dtype = at_least_float32(self.param_dtype)
        to_the_c = jax.random.uniform(key, (self.hidden_size,), dtype, _SMALLEST, _LARGEST)
        log_a = jnp.log(to_the_c) / _SHARPNESS
        return (log_a - jnp.log(-jnp.expm1(log_a))).astype(self.param_dtype)  # the inverse of the sigmoid

    def inputs(self, params: RGLRUParams, xs: Float[Array, "*N I"], *, key: Key = None) -> RGLRUZs:
        if params.w_in is not None:
            xs = add_bias(project(params.w_in, xs, self.dtype), params.b_in)[..., 0, :]
        return RGLRUZs(add_bias(project(params.w_x, xs, self.dtype), params.b), xs.astype(self.dtype or xs.dtype))

    def coefficients(self, params: RGLRUParams, zs: RGLRUZs) -> tuple[Array, Array]:
        recurrence, admit = jnp.moveaxis(jax.nn.sigmoid(zs.gates), -2, 0)
        log_a = -_SHARPNESS * jax.nn.softplus(-params.decay.astype(recurrence.dtype)) * recurrence
        # Above zero: the root's derivative there is infinite.
        rest = jnp.maximum(-jnp.expm1(2 * log_a), jnp.finfo(log_a.dtype).tiny)
        return jnp.exp(log_a), jnp.sqrt(rest) * (admit * zs.xs)

    def read(self, params: RGLRUParams, state: HiddenState, z: RGLRUZs) -> Array:
        return state.h.astype(z.xs.dtype)
