"""Units that keep their previous value at random."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import Key, Params, State
from rnnjax.cells.checks import check_rates
from rnnjax.cells.randomness import keep_mask, split
from rnnjax.cells.sizes import as_batch_size
from rnnjax.cells.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Zoneout(Wrapper):
    """Zoneout: at every step each unit keeps its previous value with some probability (Krueger et al., 2017).

    With (h~, c~) the new state that the wrapped cell makes of (h, c), and masks d that are 1 with that probability,

    h' = d_h * h + (1 - d_h) * h~
    c' = d_c * c + (1 - d_c) * c~;  y = h'

    In evaluation each mask is replaced by its expectation, the rate. Outputs are read from the new state, as in the
    paper and in Haste's layers, whose ``zoneout`` is `rate` (Haste applies none to c). Parameters, state and inputs are
    those of the wrapped cell; masks are ``[T, *batch, H]``, one for h and one for c.

    Attributes:
      rate: probability with which a unit of the hidden state h keeps its value, in [0, 1).
      cell_rate: the same for the cell state c of an LSTM. (The paper's best rates for characters are 0.05 for h and 0.5
        for c.)
      variational: whether the mask of a sequence is the same at every step, not drawn anew.

    Raises:
      ValueError: for a rate outside [0, 1); when it runs, for a state without the field of a rate above 0.
      TypeError: for a cell that has no `advance` and `read`, such as a `Stack`; wrap each of its layers instead.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Zoneout(rnnjax.LSTM(8), 0.05, cell_rate=0.5)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), key=jax.random.key(1))
      >>> ys.shape
      (2, 5, 8)
    """

    rate: float
    _: dataclasses.KW_ONLY
    cell_rate: float = 0.0
    variational: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_rates(self, "rate", "cell_rate")

    @property
    def stochastic(self) -> bool:
        return bool(self._rates) or self.cell.stochastic

    @property
    def reads_inputs(self) -> bool:
        return False

    @property
    def _rates(self) -> dict[str, float]:
        """The rates above 0, by the field of the state that each applies to."""
        return {name: rate for name, rate in (("h", self.rate), ("c", self.cell_rate)) if rate}

    def in_time(self, key: Key) -> bool:
        return bool(self._rates)

    def draw(self, params: Params, xs: Array, key: Key) -> tuple[dict[str, Array] | None, Key]:
        inner, k_h, k_c = split(key, 3)
        shapes = self._shapes(xs)
        if key is None:
            return None, inner
        keys = {"h": k_h, "c": k_c}
        return {name: self._updates(keys[name], name, shape) for name, shape in shapes.items()}, inner

    def _shapes(self, xs: Array) -> dict[str, tuple[int, ...]]:
        """Returns the shapes ``[T, *batch, H]`` of the masks, by the field of the state that each applies to."""
        state = jax.eval_shape(lambda: self.cell.initial_state(as_batch_size(xs.shape[1:-1]), xs.dtype))
        missing = [name for name in self._rates if not hasattr(state, name)]
        if missing:
            raise ValueError(f"{self!r} needs a state with a field {missing[0]}; that of {self.cell!r} has none")
        return {name: (xs.shape[0], *getattr(state, name).shape) for name in self._rates}

    def _updates(self, key: Any, name: str, shape: tuple[int, ...]) -> Array:
        """Returns a mask that is true where a unit takes its new value."""
        return keep_mask(key, self._rates[name], shape, variational=self.variational)

    def update(self, params: Params, old: State, new: State, drawn: Any) -> State:
        zoned = {name: self._zoned(name, getattr(old, name), getattr(new, name), drawn) for name in self._rates}
        return new._replace(**zoned)

    def _zoned(self, name: str, old: Array, new: Array, drawn: dict[str, Array] | None) -> Array:
        """Returns a field of the new state; without masks, its expected value."""
        if drawn is None:
            return self._rates[name] * old + (1 - self._rates[name]) * new
        return jnp.where(drawn[name], new, old)
