"""Recurrent weights of which some are left out at random."""

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

    There is one mask a call, the same for every step and every sequence of the batch, and the same in all chunks that
    are given one key. In evaluation w_h is used as it is. Parameters, state and inputs are those of the wrapped cell,
    and so is the recurrence: every method that runs the cell runs it with the mask. (Where a wrapper around it goes
    step by step, as `Zoneout` does, every step draws the mask again.)

    Attributes:
      rate: probability of leaving out an entry of w_h, in [0, 1).

    Raises:
      ValueError: for a rate outside [0, 1); TypeError: from `init` and when it runs, for parameters without a ``w_h``.
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
        inner, own = split(key, 2)
        if own is None or not self.rate:
            return None, inner
        own = own.key if isinstance(own, TimedKey) else own
        own = own if jnp.issubdtype(own.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(own)
        return jnp.broadcast_to(own, xs.shape[:1]), inner

    def weights(self, params: Params, drawn: Any) -> Params:
        if drawn is None:
            return params
        key = drawn[0] if drawn.ndim else drawn  # the same at all steps
        kept = jax.random.bernoulli(key, 1 - self.rate, params.w_h.shape)
        return params._replace(w_h=params.w_h * scaled(kept, self.rate, params.w_h.dtype))

    def _check(self, params: Params) -> None:
        if not hasattr(params, "w_h"):
            raise TypeError(
                f"WeightDrop drops entries of w_h, and the parameters of {self.cell!r} have none; "
                "put it right around a gated cell, such as LSTM(128)"
            )
