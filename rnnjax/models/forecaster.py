"""A model that predicts at every step of a sequence what comes next, and the continuation of a series with it."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from rnnjax.cells.cell import Cell
from rnnjax.models.classifier import last_of_mask, last_outputs
from rnnjax.nn.rnn import RNN


class Forecaster(nn.Module):
    """Predicts `size` numbers at every step of a sequence, from that step and those before it.

    They can be the next values of a series, or the logits of the next token. The dense layer is one product of all
    steps; its weights are initialised as in TensorFlow 1, Glorot uniform.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      size: number O of predictions at each step.
      dense: whether a dense layer computes them; if not, they are the cell's outputs, as of ``Project(cell, size)``.
      dtype: type of the computation; predictions are float32.

    Raises:
      ValueError: if there is no dense layer and the cell has another number of outputs.
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


class HorizonForecaster(nn.Module):
    """Reads a window of a series and predicts the next H steps of some of its columns at once, from its last output.

    What a dense layer makes of the output is added to the last known values, so that what is learnt is how the series
    departs from them.

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      horizon: number H of steps.
      columns: number K of columns that are predicted.
      dtype: type of the computation; predictions are float32.
    """

    cell: Cell
    horizon: int
    columns: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        xs: Float[Array, "B W I"],
        last: Float[Array, "B K"],
        *,
        mask: Bool[Array, "B W"] | None = None,
        deterministic: bool = False,
    ) -> Float[Array, "B H K"]:
        """Returns the predictions; dropout and the mask of steps are as in `rnnjax.nn.RNN`.

        Args:
          xs: the windows.
          last: the last known value of each column that is predicted.
          mask: which steps of the windows there are.
          deterministic: whether nothing is dropped.
        """
        ys, state = RNN(self.cell)(xs.astype(self.dtype), mask=mask, deterministic=deterministic)
        read = last_outputs(self.cell, ys, state) if mask is None else last_of_mask(self.cell, ys, state, mask)
        changes = nn.Dense(self.horizon * self.columns, dtype=self.dtype)(read)
        return last[:, None] + changes.astype(jnp.float32).reshape(-1, self.horizon, self.columns)


def continue_series(
    predict: Callable[[Float[Array, "1 T O"]], Float[Array, "1 T O"]], window: Float[Array, "T O"], steps: int
) -> Float[Array, "steps O"]:
    """Returns predicted values that follow a window, each of them the prediction from the T values before it.

    Args:
      predict: the model, such as a `Forecaster` with its parameters.
      window: the values that the series continues.
      steps: number of values to predict, all in one `jax.lax.scan`.
    """

    def step(window: Array, _: None) -> tuple[Array, Array]:
        following = predict(window[None])[0, -1]
        return jnp.concatenate([window[1:], following[None]]), following

    return jax.lax.scan(step, jnp.asarray(window), length=steps)[1]
