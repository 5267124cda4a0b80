"""What cells with hidden units have in common: their sizes and types, their state, and inputs projected to gates."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, Recur, State, compute_dtype
from rnnjax.cells.checks import check_hidden
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors, initializer, vector_initializer
from rnnjax.cells.projecting import keep_dtypes, project
from rnnjax.cells.sizes import Size, as_shape, check_size, keep_sizes
from rnnjax.dtypes import at_least_float32


class HiddenState(NamedTuple):
    """State of a cell that has nothing but its hidden units: ``h [*batch, H]``."""

    h: Array


@dataclasses.dataclass(frozen=True)
class HiddenCell(Cell):
    """A cell of H hidden units that reads its inputs as G gates, projected for all steps at once.

    Its fields are described where they are used, in `GatedCell` and `LinearCell`.
    """

    hidden_size: int
    _: dataclasses.KW_ONLY
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    state_dtype: DTypeLike | None = None
    kernel_init: str | Initializer = "glorot_uniform"
    bias_init: str | Initializer = "zeros"
    use_bias: bool = True

    gate_count: ClassVar[int] = 1
    # Whether an `inputs` that is overridden makes z of each step from that step's input alone, and draws nothing.
    inputs_by_step: ClassVar[bool] = False

    def __post_init__(self):
        keep_sizes(self, "hidden_size")
        initializer(self.kernel_init)
        vector_initializer(self.bias_init)
        keep_dtypes(self, "dtype", "param_dtype", "state_dtype")

    @property
    def output_size(self) -> int:
        return self.hidden_size

    def init_gates(self, key: PRNGKeyArray, input_size: Size) -> tuple[Array, Array | None]:
        """Returns fresh ``w_x [I, G, H]`` and ``b [G, H]``, each gate initialised separately; b may be None."""
        check_size("gate_count", self.gate_count)
        k_x, k_b = jax.random.split(key)
        shape = (self.gate_count, self.hidden_size)
        w_x = gate_kernels(self.kernel_init, k_x, int(input_size), *shape, self.param_dtype)
        return w_x, gate_vectors(self.bias_init, k_b, *shape, self.param_dtype) if self.use_bias else None

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        return HiddenState(self.zeros(batch_size, self.hidden_size, dtype))

    def zeros(self, batch_size: int | tuple[int, ...], size: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """Returns zeros ``[*batch, *size]`` for a leaf of the state, in the state's type.

        Args:
          batch_size: the size of the batch axis, or a tuple of sizes for another number of batch axes.
          size: of the leaf's last axis, or a tuple of sizes for several, as a matrix of each sequence has.
          dtype: type of the inputs.
        """
        dtype = self.state_dtype or at_least_float32(self.dtype or dtype)
        return jnp.zeros((*as_shape(batch_size), *as_shape(size)), dtype)

    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        return self.gate_inputs(params, self.project(params.w_x, xs))

    def gate_inputs(self, params: Params, zs: Float[Array, "*N G H"]) -> Any:
        """Returns what the steps read, from projected inputs ``zs = xs @ w_x``: by default with the bias added.

        A cell that does more with projected inputs overrides this, not `inputs`, so that a lookup can replace the
        product for one-hot inputs.
        """
        return add_bias(zs, params.b)

    def affine_inputs(self, params: Params) -> tuple[Array, Array | None] | None:
        """Returns ``w [I, n, H]`` and ``bias [n, H]`` or None, if what a step reads of z is ``x @ w + bias``.

        None where that is not known. A cell needs it only if its `inputs` is its own.
        """
        return None

    def affine_outputs(self, params: Params) -> tuple[Array, Array | None] | None:
        """Returns ``w [n, H, O]`` and ``scale [O]`` or None, of n leaves of the state.

        The sum of these leaves' products by w, plus ``scale * x``, must be what `outputs` makes of what `read` returns.
        None where the outputs are no such sum.
        """
        return None

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        zs = self.inputs(params, xs, key=key)
        ys, state = recur(self, params, zs, state, initial, xs, may_finish=True)
        return self.finished(params, ys), state

    def project(self, w_x: Float[Array, "I G H"], xs: Float[Array, "*N I"]) -> Float[Array, "*N G H"]:
        """Returns ``xs @ w_x``, the projected inputs of all steps, as one product in the compute type.

        Raises:
          ValueError: if the inputs have another number of features than the parameters.
        """
        return project(w_x, xs, self.dtype)

    def read(self, params: Params, state: State, z: Any) -> Array:
        """Returns ``y`` of one step or of all steps at once: the arguments may have any leading axes."""
        check_hidden(self, state, "override read")
        return state.h.astype(compute_dtype(z))


def add_bias(zs: Float[Array, "*N G H"], b: Float[Array, "G H"] | None) -> Float[Array, "*N G H"]:
    """Returns projected inputs plus the bias, if there is one."""
    return zs if b is None else zs + b.astype(zs.dtype)
