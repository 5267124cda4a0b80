"""The block that deep stacks of linear cells are made of: what is between the layers is not linear."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Key, Params
from rnnjax.cells.initializers import gate_kernels
from rnnjax.cells.normalising import normalised
from rnnjax.cells.projecting import keep_dtypes, project
from rnnjax.cells.sizes import Size, check_size
from rnnjax.cells.wrapper import Wrapper


class GatedResidualParams(NamedTuple):
    """Parameters of the wrapped cell and of what is around it.

    ``scale [O]`` and ``shift [O]`` of the normalisation; ``w [O, 2, O]`` and ``b [2, O]`` of the content and its gate;
    ``w_x [I, 1, O]`` of inputs that have another size, None where they have that of the outputs.
    """

    cell: Any
    scale: Array
    shift: Array
    w: Array
    b: Array
    w_x: Array | Any


@dataclasses.dataclass(frozen=True)
class GatedResidual(Wrapper):
    """A cell in the block of deep linear recurrent networks (Orvieto et al., 2023; Smith et al., 2023).

    x' = x W_x                       where inputs and outputs differ in size, else x
    y = gelu(cell(norm(x')))
    y' = x' + (y W_u + b_u) * sigmoid(y W_v + b_v)

    norm is layer normalisation (Ba et al., 2016). A stack of linear cells alone is one linear cell; of these blocks it
    is not. Parameters are `GatedResidualParams`; the state is the cell's.

    Attributes:
      param_dtype: type of the block's own parameters.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Stack([rnnjax.GatedResidual(rnnjax.LRU(8)), rnnjax.GatedResidual(rnnjax.LRU(8))])
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Associative())
      >>> ys.shape
      (2, 5, 8)
    """

    _: dataclasses.KW_ONLY
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        keep_dtypes(self, "param_dtype")

    def init(self, key: PRNGKeyArray, input_size: Size) -> GatedResidualParams:
        k_cell, k_gate, k_x = jax.random.split(key, 3)
        inputs, outputs = check_size("input_size", input_size), self.output_size
        ones, zeros = jnp.ones(outputs, self.param_dtype), jnp.zeros((2, outputs), self.param_dtype)
        w = gate_kernels("glorot_uniform", k_gate, outputs, 2, outputs, self.param_dtype)
        w_x = gate_kernels("glorot_uniform", k_x, inputs, 1, outputs, self.param_dtype)
        cell = self.cell.init(k_cell, outputs)
        return GatedResidualParams(cell, ones, zeros[0], w, zeros, None if inputs == outputs else w_x)

    def inner(self, params: GatedResidualParams) -> Params:
        return params.cell

    def draw(self, params: GatedResidualParams, xs: Array, key: Key) -> tuple[Array, Key]:
        return xs if params.w_x is None else project(params.w_x, xs, xs.dtype)[..., 0, :], key

    def before(self, params: GatedResidualParams, xs: Array, drawn: Array) -> Array:
        return normalised(drawn, -1) * params.scale.astype(drawn.dtype) + params.shift.astype(drawn.dtype)

    def after(self, params: GatedResidualParams, ys: Array, drawn: Array) -> Array:
        gated = project(params.w, jax.nn.gelu(ys), ys.dtype) + params.b.astype(ys.dtype)
        return drawn.astype(ys.dtype) + gated[..., 0, :] * jax.nn.sigmoid(gated[..., 1, :])
