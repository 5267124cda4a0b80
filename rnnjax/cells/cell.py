"""The contract of a recurrent cell: pure functions for what is before, in, and after the loop over time."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Callable, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.blocks import RecurrentWeight, block_product, in_blocks
from rnnjax.cells.checks import check_floating, check_params, check_state
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors, initializer, vector_initializer
from rnnjax.cells.projecting import keep_dtypes, matrix, project
from rnnjax.cells.randomness import TimedKey
from rnnjax.cells.sizes import Size, batch_shape, check_size, keep_sizes
from rnnjax.dtypes import at_least_float32

Params = Any
State = Any
Recur = Callable[..., tuple[Array, State]]
Key = PRNGKeyArray | TimedKey | None


class Cell(ABC):
    """A recurrent cell: hashable, without arrays; its parameters are a separate pytree.

    A sequence is computed in three parts: `inputs` computes everything that does not depend on the state, for all steps
    at once; `step` is repeated over time; `outputs` computes what no later step needs, again for all steps at once.
    Sequences are time-major here, ``[T, *batch, ...]``; `rnnjax.unroll` takes either order.

    Derive from it as a frozen dataclass, or from `GatedCell` if the cell is gated. A subclass defines `output_size`,
    `init`, `initial_state`, `inputs`, and either `step` or its two halves, `advance` and `read`, between which a
    wrapper can change the new state.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
      >>> @dataclasses.dataclass(frozen=True)
      ... class MovingAverage(rnnjax.Cell):
      ...     size: int
      ...     output_size = property(lambda self: self.size)
      ...     def init(self, key, input_size):
      ...         return {"rate": jnp.full(self.size, 0.5)}
      ...     def initial_state(self, batch_size, dtype=jnp.float32):
      ...         return jnp.zeros((batch_size, self.size), dtype)
      ...     def inputs(self, params, xs, *, key=None):
      ...         return xs
      ...     def step(self, params, state, z):
      ...         state = state + params["rate"] * (z - state)
      ...         return state, state
      >>> cell = MovingAverage(3)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 4, 3)))
      >>> print(ys[0, :, 0])
      [0.5    0.75   0.875  0.9375]
    """

    # Whether `init` returns the parameters, all but what they leave out in their `of_init`; only such can be checked.
    params_are_of_init: ClassVar[bool] = True

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Size O of the last axis of the outputs."""

    @property
    def stochastic(self) -> bool:
        """Whether `inputs` uses its key; Flax modules of such a cell require an rng in training."""
        return False

    @abstractmethod
    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        """Returns fresh parameters for inputs with `input_size` features."""

    @abstractmethod
    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        """Returns the state before the first step, each leaf ``[*batch, ...]``.

        Args:
          batch_size: the size of the batch axis, or a tuple of sizes for another number of batch axes.
          dtype: type of the inputs.
        """

    @abstractmethod
    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        """Returns what the steps read: a pytree, each leaf ``[T, *batch, ...]``.

        Args:
          params: the parameters.
          xs: inputs ``[T, *batch, I]``.
          key: PRNG key for all the randomness of the cell; None means evaluation.
        """

    def step(self, params: Params, state: State, z: Any) -> tuple[State, Array]:
        """Returns the new state and ``y``, from the state and one step ``z`` of what `inputs` returned."""
        state = self.advance(params, state, z)
        return state, self.read(params, state, z)

    def advance(self, params: Params, state: State, z: Any) -> State:
        """Returns the new state of a step."""
        raise NotImplementedError(_undefined(self, "advance"))

    def read(self, params: Params, state: State, z: Any) -> Array:
        """Returns a step's ``y`` from its new state and its ``z``."""
        raise NotImplementedError(_undefined(self, "read"))

    @property
    def advances(self) -> bool:
        """Whether `step` is `advance`, then `read`, so that the new state can be changed between them."""
        return type(self).step is Cell.step

    def outputs(self, params: Params, ys: Float[Array, "*N H"]) -> Float[Array, "*N O"]:
        """Returns the outputs from the ``y`` of every step; the identity unless it is overridden."""
        return ys

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        """Returns the state that sequences start from and are reset to: `initial_state`, unless it is learned.

        Args:
          params: the parameters.
          batch_size, dtype: as in `initial_state`.
        """
        return self.initial_state(batch_size, dtype)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        """Returns ``(ys, state)`` of a sequence, whose recurrence is run by `recur`.

        A cell made of cells calls `over_time` of its parts wherever that is the same computation, so that each
        recurrence is as small as possible.

        Args:
          recur: ``recur(cell, params, zs, state, initial, xs=None) -> (ys, state)`` repeats `step`. A cell passes `xs`
            if `inputs` computes `zs` from them alone; a method may then ignore `zs` and compute it otherwise.
          params: the parameters.
          xs: inputs ``[T, *batch, I]``.
          state: the state before the first step, each leaf ``[*batch, ...]``.
          initial: the state that resets go back to; None without resets.
          key: PRNG key; None means evaluation.
        """
        ys, state = recur(self, params, self.inputs(params, xs, key=key), state, initial)
        return self.outputs(params, ys), state

    def parts(self) -> Iterator[Cell]:
        """Yields the cell and all cells in it."""
        yield self
        for field in dataclasses.fields(self) if dataclasses.is_dataclass(self) else ():
            value = getattr(self, field.name)
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Cell):
                    yield from inner.parts()

    def __call__(self, params: Params, state: State, x: Float[ArrayLike, "*B I"], *, key: Key = None):
        """Takes one whole step; returns ``(state, y)``.

        Args:
          params: the parameters.
          state: the state before the step, each leaf ``[*batch, ...]``.
          x: input ``[*batch, I]``.
          key: PRNG key; None means evaluation.

        Raises:
          TypeError: for an input that is not floating point.
          ValueError: for shapes that do not fit the cell.
        """
        x = jnp.asarray(x)
        if x.ndim == 0:
            raise ValueError("x must have shape [*batch, I], one axis at least, got []")
        check_floating("x", x)
        check_params(self, params, x.shape[-1])
        return self.whole_step(params, check_state(self, state, x.shape[:-1], x.dtype), x, key=key)

    def whole_step(self, params: Params, state: State, x: Float[Array, "*B I"], *, key: Key = None):
        """Takes one whole step, as a call of the cell does, without checking the arguments; returns ``(state, y)``.

        Args:
          params: the parameters.
          state: the state before the step, each leaf ``[*batch, ...]``.
          x: input ``[*batch, I]``.
          key: PRNG key; None means evaluation.
        """
        zs = self.inputs(params, x[None], key=key)
        state, y = self.step(params, state, jax.tree.map(lambda z: z[0], zs))
        return state, self.outputs(params, y)


def _undefined(cell: Cell, half: str) -> str:
    return f"{type(cell).__name__} must define step, or both advance and read; it has no {half}"


class GatedParams(NamedTuple):
    """Parameters of a gated cell: ``w_x [I, G, H]``, ``w_h [H, G, H]``, ``b [G, H]`` (None without a bias)."""

    w_x: Array
    w_h: Array
    b: Array | Any  # not `| None`: code for a cell with a bias then needs no check


class HiddenState(NamedTuple):
    """State of a cell that has nothing but its hidden units: ``h [*batch, H]``."""

    h: Array


@dataclasses.dataclass(frozen=True)
class GatedCell(Cell):
    """A cell whose step is one product with the hidden state, then pointwise `gates`.

    A subclass defines `gates`, sets `gate_count`, and overrides what else differs. Its state is a NamedTuple with
    a field `h`. If its gates mix hidden units (a projection, a normalisation), it overrides `pointwise` to be False.

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

    hidden_size: int
    _: dataclasses.KW_ONLY
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    state_dtype: DTypeLike | None = None
    kernel_init: str | Initializer = "glorot_uniform"
    recurrent_init: str | Initializer = "orthogonal"
    bias_init: str | Initializer = "zeros"
    use_bias: bool = True

    gate_count: ClassVar[int] = 1

    def __post_init__(self):
        keep_sizes(self, "hidden_size")
        for choice in (self.kernel_init, self.recurrent_init):
            initializer(choice)
        vector_initializer(self.bias_init)
        keep_dtypes(self, "dtype", "param_dtype", "state_dtype")

    @property
    def output_size(self) -> int:
        return self.hidden_size

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

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        return HiddenState(self.zeros(batch_size, self.hidden_size, dtype))

    def zeros(self, batch_size: int | tuple[int, ...], size: int, dtype: DTypeLike) -> Array:
        """Returns zeros ``[*batch, size]`` in the type of the state, for inputs of type `dtype`."""
        return jnp.zeros((*batch_shape(batch_size), size), self._state_dtype(dtype))

    def _state_dtype(self, dtype: DTypeLike) -> DTypeLike:
        return self.state_dtype or at_least_float32(self.dtype or dtype)

    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        return self.gate_inputs(params, self.project(params.w_x, xs))

    def gate_inputs(self, params: Params, zs: Float[Array, "*N G H"]) -> Any:
        """Returns what the steps read, from projected inputs ``zs = xs @ w_x``: by default with the bias added.

        A cell that does more with projected inputs overrides this, not `inputs`, so that a lookup can replace the
        product for one-hot inputs.
        """
        return add_bias(zs, params.b)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        ys, state = recur(self, params, self.inputs(params, xs, key=key), state, initial, xs)
        return self.outputs(params, ys), state

    def project(self, w_x: Float[Array, "I G H"], xs: Float[Array, "*N I"]) -> Float[Array, "*N G H"]:
        """Returns ``xs @ w_x``, the projected inputs of all steps, as one product in the compute type.

        Raises:
          ValueError: if the inputs have another number of features than the parameters.
        """
        return project(w_x, xs, self.dtype)

    def advance(self, params: Params, state: State, z: Any) -> State:
        r = recurrent_product(state.h, self.recurrent_weight(params), compute_dtype(z))
        new = self.gates(params, state, z, r)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)

    def read(self, params: Params, state: State, z: Any) -> Array:
        return state.h.astype(compute_dtype(z))


def add_bias(zs: Float[Array, "*N G H"], b: Float[Array, "G H"] | None) -> Float[Array, "*N G H"]:
    """Returns projected inputs plus the bias, if there is one."""
    return zs if b is None else zs + b.astype(zs.dtype)


def recurrent_product(h: Float[Array, "*B K"], w: Float[Array, "K ..."], dtype: DTypeLike) -> Array:
    """Returns ``h @ w`` with operands in `dtype`, accumulated and returned in the type of `h`.

    A `w` of four axes is in blocks, one for each head (see `rnnjax.cells.blocks`).
    """
    if in_blocks(w):
        return block_product(h, w, dtype)
    r = jnp.tensordot(h.astype(dtype), matrix(w).astype(dtype), 1, preferred_element_type=h.dtype)
    return r.reshape(*h.shape[:-1], *w.shape[1:])


def compute_dtype(z: Any) -> jnp.dtype:
    """Returns the type in which a cell computes its products, that of what its `inputs` returned."""
    return jnp.result_type(*jax.tree.leaves(z))
