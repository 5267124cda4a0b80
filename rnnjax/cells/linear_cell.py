"""The contract of a linear cell: a recurrence that is linear in the state and elementwise."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from rnnjax.cells.cell import Params, State
from rnnjax.cells.checks import check_new_state
from rnnjax.cells.coefficient_checks import check_coefficients, check_pair
from rnnjax.cells.hidden_cell import HiddenCell
from rnnjax.cells.pairs import is_complex, map_numbers, plus, times
from rnnjax.cells.sizes import Size, check_size
from rnnjax.dtypes import holding_all


class LinearParams(NamedTuple):
    """Parameters of a linear cell: ``w_x [I, G, H]`` and ``b [G, H]`` (None without a bias)."""

    w_x: Array
    b: Array | Any


@dataclasses.dataclass(frozen=True)
class LinearCell(HiddenCell):
    """A cell whose new state is ``h' = a * h + b``, elementwise, where neither a nor b depends on the state.

    All states can then be computed by a parallel prefix over time, as `Associative` does. A subclass defines
    `coefficients`, sets `gate_count`, and overrides what else differs: `init`, `inputs`, `initial_state`, `read`,
    `outputs`. Products belong into `inputs` and `outputs`, which are computed once for all steps; `coefficients` and
    `read` are pointwise. The state may be any tree of numbers of any shape, each an array or a `Complex` pair.

    Attributes:
      hidden_size: number H of hidden units.
      dtype: type of the products and of the outputs; None takes that of the inputs.
      param_dtype: type of the parameters.
      state_dtype: type of the state and of its coefficients; None takes `dtype`, but at least float32.
      kernel_init, bias_init: names from `jax.nn.initializers`, or functions ``(key, shape, dtype)``, called once for
        each gate's matrix, or each gate's vector ``[H]``.
      use_bias: whether there are biases; otherwise they are None in the parameters.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Forgetting(rnnjax.LinearCell):
      ...     gate_count = 2
      ...     def coefficients(self, params, zs):
      ...         forget, content = jax.nn.sigmoid(zs[..., 0, :]), jnp.tanh(zs[..., 1, :])
      ...         return forget, (1 - forget) * content
      >>> cell = Forgetting(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> xs = jnp.ones((2, 5, 3))
      >>> ys, state = rnnjax.unroll(cell, params, xs, lengths=[5, 2], method=rnnjax.Associative())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 8))
    """

    @abstractmethod
    def coefficients(self, params: Params, zs: Any) -> tuple[Any, Any]:
        """Returns ``a`` and ``b`` of one step or of all steps at once: `zs` may have any leading axes.

        Each is built as the state is, with numbers of the state's shape or such as broadcast to it; in the place of
        the whole tree, one number stands for each number in it. Where a state is `Complex`, b is too, and a may be.

        Args:
          params: the parameters.
          zs: what `inputs` returned, by default the projected inputs ``[*N, G, H]``, in the type of the state.
        """

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        check_size("input_size", input_size)
        return LinearParams(*self.init_gates(key, input_size))

    def advance(self, params: Params, state: State, z: Any) -> State:
        a, b = coefficients_like(self, params, z, state)
        new = map_numbers(lambda h, a, b: plus(times(a, h), b), state, a, b)
        check_new_state(self, new, state)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)


def coefficients_like(
    cell: LinearCell, params: Params, zs: Any, state: State, steps: tuple[int, ...] = ()
) -> tuple[State, State]:
    """Returns a linear cell's coefficients in the type of the state, each built as the state is.

    Args:
      cell: the cell.
      params: its parameters.
      zs: what `inputs` returned, of one step or of several.
      state: a state, each leaf ``[*batch, ...]``.
      steps: the number of steps, where they are several.

    Raises:
      TypeError: if they are no pair, or not built as the state is.
      ValueError: if one does not broadcast to the state.
    """
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
    dtype = holding_all(bool, *dtypes)  # which every type holds

    def in_its_type(z: Array) -> Array:
        return z.astype(holding_all(z.dtype, dtype)) if jnp.issubdtype(z.dtype, jnp.floating) else z

    pair = cell.coefficients(params, jax.tree.map(in_its_type, zs))
    check_pair(cell, pair)
    a, b = (_built_as(state, numbers) for numbers in pair)
    check_coefficients(cell, (a, b), state, steps)
    return a, b


def _built_as(state: State, numbers: Any) -> State:
    """Returns a tree with arrays for its numbers, and one number as a tree that has it everywhere."""
    arrays = jax.tree.map(jnp.asarray, numbers)
    if is_complex(numbers) or jax.tree_util.all_leaves([numbers]):
        return map_numbers(lambda _: arrays, state)
    return arrays
