"""The basic cell with TensorFlow 1's initial weights."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import PRNGKeyArray

from rnnjax.cells.basic import BasicRNN
from rnnjax.cells.gated_cell import GatedParams
from rnnjax.cells.initializers import gate_vectors, initializer
from rnnjax.cells.sizes import Size, check_size


@dataclasses.dataclass(frozen=True)
class JointBasicRNN(BasicRNN):
    """A `BasicRNN` whose two weights are initialised as one matrix ``[I + H, H]``, as TensorFlow 1 stores them.

    With Glorot's initialiser, whose bound falls with the size of the matrix, they are smaller than two weights drawn
    separately: by a factor of sqrt(2/3) where I = H. `recurrent_init` is not used.
    """

    def init(self, key: PRNGKeyArray, input_size: Size) -> GatedParams:
        check_size("input_size", input_size)
        k_kernel, k_bias = jax.random.split(key)
        shape = (input_size + self.hidden_size, self.hidden_size)
        kernel = initializer(self.kernel_init)(k_kernel, shape, self.param_dtype)[:, None]
        bias = gate_vectors(self.bias_init, k_bias, 1, self.hidden_size, self.param_dtype) if self.use_bias else None
        return GatedParams(kernel[:input_size], kernel[input_size:], bias)
