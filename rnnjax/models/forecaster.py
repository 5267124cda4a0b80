"""A model that says at every step of a sequence what comes next, and the series that it goes on with."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell
from rnnjax.nn.rnn import RNN


class Forecaster(nn.Module):
    """Predicts `size` numbers at every step of a sequence, from that step and those before it.

    Numbers of a series, or the logits of the next token. The dense layer is one product over all steps at once, and its
    weights start as TensorFlow 1's do, Glorot uniform.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      size: number O of predictions a step.
      dense: whether a dense layer makes them; if not, they are the outputs of the cell, as of ``Project(cell, size)``.
      dtype: compute type; predictions are float32.

    Raises:
      ValueError: if there is no dense layer and the outputs of the cell are not as many as the predictions.
    """

    cell: Cell
    size: int
    dense: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, xs: Float[Array, "B T I"], *, deterministic: bool = False) -> Float[Array, "B T O"]:
        """Returns the predictions of every step; dropout is as in `rnnjax.nn.RNN`."""
        if not self.dense and self.cell.output_size != self.size:
            raise ValueError(
                f"without a dense layer the cell must have {self.size} outputs, got {self.cell.output_size}: "
                f"wrap it as Project(cell, {self.size})"
            )
        ys, _ = RNN(self.cell)(xs.astype(self.dtype), deterministic=deterministic)
        if self.dense:
            ys = nn.Dense(self.size, dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform())(ys)
        return ys.astype(jnp.float32)


def continue_series(
    predict: Callable[[Float[Array, "1 T O"]], Float[Array, "1 T O"]], window: Float[Array, "T O"], steps: int
) -> Float[Array, "steps O"]:
    """Returns the values that follow a window, one at a time: each is the last prediction from the T values before it.

    Args:
      predict: the model, such as a `Forecaster` with its parameters.
      window: the values that the series continues.
      steps: number of values, all in one `jax.lax.scan`.
    """

    def step(window: Array, _: None) -> tuple[Array, Array]:
        following = predict(window[None])[0, -1]
        return jnp.concatenate([window[1:], following[None]]), following

    return jax.lax.scan(step, jnp.asarray(window), length=steps)[1]
