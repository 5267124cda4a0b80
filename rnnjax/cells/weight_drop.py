"""DropConnect on the recurrent weight."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Key, Params
from rnnjax.cells.checks import check_rates
from rnnjax.cells.randomness import TimedKey, scaled, split
from rnnjax.cells.sizes import Size
from rnnjax.cells.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class WeightDrop(Wrapper):
    """DropConnect on the recurrent weight (Wan et al., 2013; for recurrent cells: Merity et al., 2018).

    With a mask m ``[H, G, H]`` whose entries are 0 with probability `rate` and 1 otherwise, the wrapped cell runs with

    w_h' = m * w_h / (1 - rate)

    One mask is drawn a call: it is the same for all steps and all sequences of the batch, and for all chunks that are
    given the same key. In evaluation w_h is used as it is. Parameters, state and inputs are those of the wrapped cell,
    and so is the recurrence: every method that runs the cell runs it with the mask. (A wrapper around it that goes step
    by step, such as `Zoneout`, draws the same mask again at every step.)

    Attributes:
      rate: probability of dropping an entry of w_h, in [0, 1).

    Raises:
      ValueError: for a rate outside [0, 1).
      TypeError: from `init` and when it runs, for parameters without a ``w_h``.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.WeightDrop(rnnjax.LSTM(8), 0.5)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), key=jax.random.key(1))
      >>> ys.shape
      (2, 5, 8)
    """

    rate: float

    def __post_init__(self):
        super().__post_init__()
        check_rates(self, "rate")

    @property
    def stochastic(self) -> bool:
        return bool(self.rate) or self.cell.stochastic

    @property
    def reads_inputs(self) -> bool:
        return False

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        params = self.cell.init(key, input_size)
        self._check(params)
        return params

    def draw(self, params: Params, xs: Array, key: Key) -> tuple[Array | None, Key]:
        self._check(params)
        cell_key, mask_key = split(key, 2)
        if mask_key is None or not self.rate:
            return None, cell_key
        mask_key = mask_key.key if isinstance(mask_key, TimedKey) else mask_key
        if not jnp.issubdtype(mask_key.dtype, jax.dtypes.prng_key):  # an old-style key, an array of two numbers
            mask_key = jax.random.wrap_key_data(mask_key)
        # The key instead of the mask is handed to every step: a mask for each would be T times the weight's size.
        return jnp.broadcast_to(mask_key, xs.shape[:1]), cell_key

    def weights(self, params: Params, drawn: Any) -> Params:
        if drawn is None:
            return params
        key = drawn[0] if drawn.ndim else drawn  # of all steps, or of one: they are the same
        mask = jax.random.bernoulli(key, 1 - self.rate, params.w_h.shape)
        return params._replace(w_h=params.w_h * scaled(mask, self.rate, params.w_h.dtype))

    def _check(self, params: Params) -> None:
        if not hasattr(params, "w_h"):
            raise TypeError(
                f"WeightDrop drops entries of w_h, and the parameters of {self.cell!r} have none; "
                "put it right around a gated cell, such as LSTM(128)"
            )
