"""The basic cell as TensorFlow 1 starts it."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import PRNGKeyArray

from rnnjax.cells.basic import BasicRNN
from rnnjax.cells.cell import GatedParams
from rnnjax.cells.initializers import gate_vectors, initializer
from rnnjax.cells.sizes import Size, check_size


@dataclasses.dataclass(frozen=True)
class JointBasicRNN(BasicRNN):
    """A `BasicRNN` whose two weights are drawn as one matrix ``[I + H, H]``, as TensorFlow 1 keeps them.

    With Glorot's initialiser, which looks at a matrix's sides, they are smaller than two drawn by themselves: by
    a factor of sqrt(2/3) where I = H. `recurrent_init` is not used.
    """

    def init(self, key: PRNGKeyArray, input_size: Size) -> GatedParams:
        check_size("input_size", input_size)
        k_kernel, k_bias = jax.random.split(key)
        shape = (input_size + self.hidden_size, self.hidden_size)
        kernel = initializer(self.kernel_init)(k_kernel, shape, self.param_dtype)[:, None]
        bias = gate_vectors(self.bias_init, k_bias, 1, self.hidden_size, self.param_dtype) if self.use_bias else None
        return GatedParams(kernel[:input_size], kernel[input_size:], bias)
