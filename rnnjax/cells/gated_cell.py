"""The contract of a gated cell: one product with the hidden state, then pointwise gates."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.blocks import RecurrentWeight, block_product, in_blocks
from rnnjax.cells.cell import Params, State, compute_dtype
from rnnjax.cells.checks import check_hidden, check_new_state
from rnnjax.cells.hidden_cell import HiddenCell
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors, initializer
from rnnjax.cells.projecting import matrix
from rnnjax.cells.sizes import Size, check_size


class GatedParams(NamedTuple):
    """Parameters of a gated cell: ``w_x [I, G, H]``, ``w_h [H, G, H]``, ``b [G, H]`` (None without a bias)."""

    w_x: Array
    w_h: Array
    b: Array | Any  # not `| None`: code for a cell with a bias then needs no check


@dataclasses.dataclass(frozen=True)
class GatedCell(HiddenCell):
    """A cell whose step is one product with the hidden state, then pointwise `gates`.

    A subclass defines `gates`, sets `gate_count`, and overrides what else differs. Its state is a NamedTuple with
    a field `h`, its parameters one with the fields of `GatedParams`; either may have more. If its gates mix hidden
    units (a projection, a normalisation), it overrides `pointwise` to be False.

    Attributes:
      hidden_size: number H of hidden units.
      dtype: type of the products and of the outputs; None takes that of the inputs.
      param_dtype: type of the parameters.
      state_dtype: type of the state and of the pointwise operations; None takes `dtype`, but at least float32.
      kernel_init, recurrent_init, bias_init: names from `jax.nn.initializers`, or functions ``(key, shape, dtype)``,
        called once for each gate's matrix, or each gate's vector ``[H]``.
      use_bias: whether there are biases; otherwise they are None in the parameters.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
      >>> @dataclasses.dataclass(frozen=True)
      ... class MinimalGatedUnit(rnnjax.GatedCell):
      ...     gate_count = 2
      ...     def gates(self, params, state, z, r):
      ...         f = jax.nn.sigmoid(z[..., 0, :] + r[..., 0, :])
      ...         candidate = jnp.tanh(z[..., 1, :] + f * r[..., 1, :])
      ...         return rnnjax.HiddenState((1 - f) * state.h + f * candidate)
      >>> cell = MinimalGatedUnit(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, rnnjax.choose_method(cell, (5, 2, 3), "cpu")
      ((2, 5, 8), Fused(unroll=1))
    """

    _: dataclasses.KW_ONLY
    recurrent_init: str | Initializer = "orthogonal"

    def __post_init__(self):
        super().__post_init__()
        initializer(self.recurrent_init)

    @property
    def pointwise(self) -> bool:
        """Whether each hidden unit's gates read that unit only."""
        return True

    @abstractmethod
    def gates(self, params: Params, state: State, z: Any, r: Float[Array, "*B G H"]) -> State:
        """Returns the new state of one step.

        Args:
          params: the parameters.
          state: the state before the step, each leaf ``[*batch, ...]``.
          z: one step of what `inputs` returned, by default the projected inputs ``[*batch, G, H]``.
          r: ``state.h @ recurrent_weight``, ``[*batch, G, H]``.
        """

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        check_size("input_size", input_size)
        return GatedParams(*self.init_gates(key, input_size, self.gate_count))

    def init_gates(self, key: PRNGKeyArray, input_size: Size, gate_count: int) -> tuple[Array, Array, Array | None]:
        """Returns fresh ``w_x [I, G, H]``, ``w_h [O, G, H]`` and ``b [G, H]``, each gate initialised separately.

        ``b`` is None with ``use_bias=False``.
        """
        check_size("gate_count", gate_count)
        k_x, k_h, k_b = jax.random.split(key, 3)
        shape = (gate_count, self.hidden_size)
        return (
            gate_kernels(self.kernel_init, k_x, int(input_size), *shape, self.param_dtype),
            gate_kernels(self.recurrent_init, k_h, self.output_size, *shape, self.param_dtype),
            gate_vectors(self.bias_init, k_b, *shape, self.param_dtype) if self.use_bias else None,
        )

    def recurrent_weight(self, params: Params) -> RecurrentWeight:
        """Returns the weight that multiplies the hidden state at every step; in `Heads`, its blocks."""
        return params.w_h

    def advance(self, params: Params, state: State, z: Any) -> State:
        check_hidden(self, state)
        r = recurrent_product(state.h, self.recurrent_weight(params), compute_dtype(z))
        new = self.gates(params, state, z, r)
        check_new_state(self, new, state)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)


def recurrent_product(h: Float[Array, "*B K"], w: Float[Array, "K ..."], dtype: DTypeLike) -> Array:
    """Returns ``h @ w`` with operands in `dtype`, accumulated and returned in the type of `h`.

    A `w` of four axes is in blocks, one for each head (see `rnnjax.cells.blocks`).
    """
    if in_blocks(w):
        return block_product(h, w, dtype)
    r = jnp.tensordot(h.astype(dtype), matrix(w).astype(dtype), 1, preferred_element_type=h.dtype)
    return r.reshape(*h.shape[:-1], *w.shape[1:])
