"""The contract of a diagonal cell: a recurrence that is not linear, but whose units do not read each other."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Params, State
from rnnjax.cells.checks import check_hidden, check_new_state
from rnnjax.cells.hidden_cell import HiddenCell
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors, vector_initializer
from rnnjax.cells.sizes import Size, check_size
from rnnjax.dtypes import at_least_float32, holding_all


class DiagonalParams(NamedTuple):
    """Parameters of a diagonal cell: ``w_x [I, G, H]``, ``w_h [G, H]``, and ``b [G, H]`` (None without a bias)."""

    w_x: Array
    w_h: Array
    b: Array | Any


@dataclasses.dataclass(frozen=True)
class DiagonalCell(HiddenCell):
    """A cell whose units do not read each other's state: the new state of unit j follows from that of unit j alone.

    The derivative of its step is then a number for each unit, or a small matrix where a unit's state has several
    numbers, and `Newton` computes all steps at once. A subclass defines `gates`, pointwise, sets `gate_count`, and
    overrides what else differs. Its state is a NamedTuple with a field `h`; every leaf is ``[*batch, H]``.

    Attributes:
      hidden_size: number H of hidden units.
      dtype: type of the products and of the outputs; None takes that of the inputs.
      param_dtype: type of the parameters.
      state_dtype: type of the state and of the pointwise operations; None takes `dtype`, but at least float32.
      kernel_init, bias_init: names from `jax.nn.initializers`, or functions ``(key, shape, dtype)``, called once for
        each gate's matrix, or each gate's vector ``[H]``.
      use_bias: whether there are biases; otherwise they are None in the parameters.
      recurrent_init: as `bias_init`, for the recurrent weights; None: as `published_recurrent` draws them.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Gated(rnnjax.DiagonalCell):
      ...     gate_count = 2
      ...     def gates(self, params, state, z, r):
      ...         keep, content = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :]), jnp.tanh(z[..., 1, :] + r[..., 1, :])
      ...         return rnnjax.HiddenState(keep * state.h + (1 - keep) * content)
      >>> cell = Gated(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), lengths=[5, 2])
      >>> ys.shape, params.w_h.shape
      ((2, 5, 8), (2, 8))
    """

    _: dataclasses.KW_ONLY
    recurrent_init: str | Initializer | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.recurrent_init is not None:
            vector_initializer(self.recurrent_init)

    @abstractmethod
    def gates(self, params: Params, state: State, z: Any, r: Float[Array, "*N G H"]) -> State:
        """Returns the new state of one step or of many: the arguments may have any leading axes.

        Args:
          params: the parameters.
          state: the state before the step, each leaf ``[*N, H]``.
          z: what `inputs` returned, by default the projected inputs ``[*N, G, H]``, in the type of the state.
          r: ``state.h * w_h``, ``[*N, G, H]``.
        """

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        return DiagonalParams(*self.init_gates(key, input_size))

    def init_gates(self, key: PRNGKeyArray, input_size: Size) -> tuple[Array, Array, Array | None]:
        """Returns fresh ``w_x [I, G, H]``, ``w_h [G, H]`` and ``b [G, H]``, gate by gate; b is None without biases."""
        check_size("input_size", input_size)
        check_size("gate_count", self.gate_count)
        k_x, k_h, k_b = jax.random.split(key, 3)
        shape = (self.gate_count, self.hidden_size)
        return (
            gate_kernels(self.kernel_init, k_x, int(input_size), *shape, self.param_dtype),
            self.vectors(k_h, self.gate_count),
            gate_vectors(self.bias_init, k_b, *shape, self.param_dtype) if self.use_bias else None,
        )

    def vectors(self, key: PRNGKeyArray, count: int) -> Float[Array, "count H"]:
        """Returns fresh recurrent weights, a vector ``[H]`` for each of `count` gates."""
        draw = self.published_recurrent if self.recurrent_init is None else self.recurrent_init
        return gate_vectors(draw, key, count, self.hidden_size, self.param_dtype)

    def published_recurrent(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, " H"]:
        """Returns one gate's recurrent weights: here uniform in [-1, 1], in a published cell as its paper has them."""
        return jax.random.uniform(key, shape, at_least_float32(dtype), -1.0, 1.0).astype(dtype)

    def advance(self, params: Params, state: State, z: Any) -> State:
        check_hidden(self, state)
        dtype = state.h.dtype
        h, w_h = state.h[..., None, :], params.w_h.astype(dtype)
        # In full, so that the gradient of the weights is one sum.
        r = h * jnp.broadcast_to(w_h, (*h.shape[:-2], *w_h.shape))
        new = self.gates(params, state, jax.tree.map(lambda leaf: _at_least(dtype, leaf), z), r)
        check_new_state(self, new, state)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)


def _at_least(dtype: DTypeLike, leaf: Array) -> Array:
    """Returns an array of floating-point numbers in a type that holds those of `dtype` too, any other as it is."""
    return leaf.astype(holding_all(leaf.dtype, dtype)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
