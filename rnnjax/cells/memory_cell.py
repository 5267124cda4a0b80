"""The contract of a cell whose state is a matrix of keys and values: a memory that every step writes to and reads."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Params, compute_dtype
from rnnjax.cells.hidden_cell import HiddenCell, HiddenState
from rnnjax.cells.linear_cell import LinearParams
from rnnjax.cells.sizes import Size, check_size, keep_sizes
from rnnjax.dtypes import holding_all


class Association(NamedTuple):
    """What steps write to their matrices and read from them, in each of n heads.

    Attributes:
      query, key: ``[*N, n, K]``.
      value: ``[*N, n, V]``.
      log_decay: logarithm of the factor that what is there is multiplied by first, ``[*N, n, 1]``, or of a factor for
        each row of the matrix, ``[*N, n, K]``; None: nothing decays.
      rate: how much of what the key finds is replaced by the value, ``[*N, n]``; None: the value is added to it.
    """

    query: Array
    key: Array
    value: Array
    log_decay: Array | None = None
    rate: Array | None = None


@dataclasses.dataclass(frozen=True)
class MemoryCell(HiddenCell):
    """A cell whose state is a matrix S for each head, ``[K, V]``: linear attention, with or without the delta rule.

    D = exp(log_decay) * S                     rows of the matrix
    S' = D + k v^T                             without a rate
    S' = D + rate * k (v - D^T k)^T            with one: the delta rule
    y = S'^T q                                 of all heads, one behind the other

    None of q, k, v, the decay and the rate depends on the state, so that `Chunkwise` takes many steps at once as
    products of matrices. A subclass defines `association`, sets `gate_count`, and overrides what else differs: `init`,
    whose parameters are `LinearParams`, `inputs`, `outputs`, and `initial_state` where a head has other numbers of keys
    than of values. Products belong into `inputs` and `outputs`, which are computed once for all steps.

    Attributes:
      hidden_size: number H of outputs; a head has V = H / n values, and by default as many keys K.
      heads: number n of heads.
      dtype, param_dtype, state_dtype, kernel_init, bias_init, use_bias: as in `LinearCell`.

    Raises:
      ValueError: unless the heads divide the hidden size.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Retention(rnnjax.MemoryCell):  # Sun et al., 2023, without its rotation
      ...     gate_count = 3
      ...     def association(self, params, zs):
      ...         q, k, v = self.by_head(zs)
      ...         decay = jnp.log1p(-2.0 ** (-5 - jnp.arange(self.heads)))
      ...         return rnnjax.Association(q, k, v, jnp.broadcast_to(decay[:, None], (*q.shape[:-1], 1)))
      >>> cell = Retention(8, heads=2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Chunkwise())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 2, 4, 4))
    """

    heads: int = 1

    def __post_init__(self):
        super().__post_init__()
        keep_sizes(self, "heads")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide the hidden size {self.hidden_size}, got {self.heads}")

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        check_size("input_size", input_size)
        return LinearParams(*self.init_gates(key, input_size))

    @abstractmethod
    def association(self, params: Params, zs: Any) -> Association:
        """Returns what one step writes and reads, or all steps at once: `zs` may have any leading axes.

        Args:
          params: the parameters.
          zs: what `inputs` returned, by default the projected inputs ``[*N, G, H]``, in the type of the state.
        """

    def by_head(self, zs: Float[Array, "*N G H"]) -> list[Float[Array, "*N n V"]]:
        """Returns every gate, cut into heads."""
        return [zs[..., gate, :].reshape(*zs.shape[:-2], self.heads, -1) for gate in range(zs.shape[-2])]

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> HiddenState:
        size = self.hidden_size // self.heads
        return HiddenState(self.zeros(batch_size, (self.heads, size, size), dtype))

    def advance(self, params: Params, state: HiddenState, z: Any) -> HiddenState:
        _, key, value, log_decay, rate = association_like(self, params, z, state)
        decayed = state.h if log_decay is None else jnp.exp(log_decay)[..., None] * state.h
        if rate is not None:
            value = rate[..., None] * (value - jnp.einsum("...k,...kv->...v", key, decayed))
        return HiddenState(decayed + key[..., :, None] * value[..., None, :])

    def read(self, params: Params, state: HiddenState, z: Any) -> Float[Array, "*N H"]:
        query = association_like(self, params, z, state).query
        ys = jnp.einsum("...nk,...nkv->...nv", query, state.h)
        return ys.reshape(*ys.shape[:-2], self.hidden_size).astype(compute_dtype(z))


def association_like(cell: MemoryCell, params: Params, zs: Any, state: HiddenState) -> Association:
    """Returns what steps write and read in the type of the state.

    Args:
      cell: the cell.
      params: its parameters.
      zs: what `inputs` returned, of one step or of several.
      state: a state, ``[*batch, n, K, V]``.

    Raises:
      TypeError: if the cell's `association` returns something else.
      ValueError: if the shapes are not those of the state.
    """
    dtype = state.h.dtype

    def in_its_type(z: Array) -> Array:
        return z.astype(holding_all(z.dtype, dtype)) if jnp.issubdtype(z.dtype, jnp.floating) else z

    found = cell.association(params, jax.tree.map(in_its_type, zs))
    if not isinstance(found, Association):
        raise TypeError(
            f"association of {type(cell).__name__} must return a rnnjax.Association, got {type(found).__name__}"
        )
    heads, keys, values = state.h.shape[-3:]
    decays = 1 if found.log_decay is None else found.log_decay.shape[-1]
    ends = (heads, keys), (heads, keys), (heads, values), (heads, decays if decays == 1 else keys), (heads,)
    given = {name: (array, end) for name, array, end in zip(Association._fields, found, ends) if array is not None}
    for name, (array, end) in given.items():
        if array.shape[-len(end) :] != end:
            raise ValueError(
                f"{name} of {type(cell).__name__} must end in the axes {list(end)}, got the shape {list(array.shape)}"
            )
    steps = jnp.broadcast_shapes(*(array.shape[: -len(end)] for array, end in given.values()))
    whole = {name: jnp.broadcast_to(array, (*steps, *end)).astype(dtype) for name, (array, end) in given.items()}
    return found._replace(**whole)
