"""The contract of a recurrent cell: a few pure functions, cut where time cuts them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Callable, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.backend import sequences_as_matrices
from rnnjax.cells.checks import check_floating, check_params, check_state
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors, initializer, vector_initializer
from rnnjax.cells.randomness import TimedKey
from rnnjax.cells.sizes import Size, batch_shape, check_size, keep_sizes
from rnnjax.dtypes import at_least_float32

Params = Any
State = Any
Recur = Callable[..., tuple[Array, State]]
Key = PRNGKeyArray | TimedKey | None


class Cell(ABC):
    """A recurrent cell: hashable, without arrays; its parameters are a separate pytree.

    A sequence is computed as ``outputs(step over time(inputs(xs)))``. What does not depend on the state
    is in `inputs`, for all steps at once; only `step` is repeated; what no later step needs is in `outputs`.
    A subclass defines `step`, or the two halves of one, `advance` and `read`, between which a wrapper can change the
    new state. Sequences are time-major here, ``[T, *batch, ...]``; `rnnjax.unroll` takes either order.
    Derive from it as a frozen dataclass; derive from `GatedCell` where the cell is gated.
    """

    # Whether `init` makes the parameters, but for what they leave out in their `of_init`; only such can be checked.
    params_are_of_init: ClassVar[bool] = True

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Size O of the last axis of the outputs."""

    @property
    def stochastic(self) -> bool:
        """Whether `inputs` draws from its key; a cell that does says so, and its modules then ask for a key."""
        return False

    @abstractmethod
    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        """Returns fresh parameters for inputs with `input_size` features."""

    @abstractmethod
    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        """Returns the state before the first step, each leaf ``[*batch, ...]``; `dtype` is that of the inputs."""

    @abstractmethod
    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        """Returns what every step needs of the inputs: a pytree, each leaf ``[T, *batch, ...]``.

        All randomness is drawn here, from `key`; None means evaluation.
        """

    def step(self, params: Params, state: State, z: Any) -> tuple[State, Array]:
        """Takes one step, ``z`` being one time of what `inputs` returned; returns the new state and ``y``."""
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
        """Returns the outputs from the ``y`` of every step (identity unless a cell says otherwise)."""
        return ys

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        """Returns the state that sequences start from and are reset to: `initial_state`, unless it is learned."""
        return self.initial_state(batch_size, dtype)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        """Returns ``(ys, state)`` of a sequence, leaving the recurrence itself to ``recur``.

        `recur(cell, params, zs, state, initial, xs=None) -> (ys, state)` repeats `step`; where `inputs` alone made `zs`
        from `xs`, a method that is given them may do without `zs`. A cell made of cells hands on its parts wherever
        that is the same computation, so that each recurrence is as small as it can be.
        """
        ys, state = recur(self, params, self.inputs(params, xs, key=key), state, initial)
        return self.outputs(params, ys), state

    def parts(self) -> Iterator[Cell]:
        """Yields the cell and the cells that it is made of."""
        yield self
        for field in dataclasses.fields(self) if dataclasses.is_dataclass(self) else ():
            value = getattr(self, field.name)
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Cell):
                    yield from inner.parts()

    def __call__(self, params: Params, state: State, x: Float[ArrayLike, "*B I"], *, key: Key = None):
        """Takes one whole step from an input ``x [*batch, I]``; returns ``(state, y)``.

        Raises:
          TypeError: for numbers that are not floating point; ValueError: for shapes that do not fit the cell.
        """
        x = jnp.asarray(x)
        if x.ndim == 0:
            raise ValueError("x must have shape [*batch, I], one axis at least, got []")
        check_floating("x", x)
        check_params(self, params, x.shape[-1])
        return self.whole_step(params, check_state(self, state, x.shape[:-1], x.dtype), x, key=key)

    def whole_step(self, params: Params, state: State, x: Float[Array, "*B I"], *, key: Key = None):
        """Returns what calling the cell does, of arguments that are known to fit."""
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
    """State of a cell that remembers nothing but its hidden units: ``h [*batch, H]``."""

    h: Array


@dataclasses.dataclass(frozen=True)
class GatedCell(Cell):
    """A cell whose step is one product of the hidden state and pointwise `gates`.

    A subclass defines `gates`, sets `gate_count`, and overrides what else differs. Its state is a NamedTuple with
    a field `h`. If its gates mix hidden units (a projection, a normalisation), it says ``pointwise = False``.

    Attributes:
      hidden_size: number H of hidden units.
      dtype: type of the products and of the outputs; None takes that of the inputs.
      param_dtype: type in which parameters are made and kept.
      state_dtype: type of the state and of the pointwise work; None takes `dtype`, but never below float32.
      kernel_init, recurrent_init, bias_init: names from `jax.nn.initializers`, or functions ``(key, shape, dtype)``,
        which are asked for each gate's matrix, and each gate's vector ``[H]``, by itself.
      use_bias: whether there are biases; without, they are None in the parameters.
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
        for name in ("dtype", "param_dtype", "state_dtype"):
            # One form for every way to name a type; and NumPy has `dtype("float64") == None`.
            given = getattr(self, name)
            if given is not None and not jnp.issubdtype(given, jnp.floating):
                raise TypeError(f"{name} must be a floating-point type, got {jnp.dtype(given)}")
            object.__setattr__(self, name, None if given is None else jnp.dtype(given).type)

    @property
    def output_size(self) -> int:
        return self.hidden_size

    @property
    def pointwise(self) -> bool:
        """Whether `gates` treats every hidden unit by itself."""
        return True

    @abstractmethod
    def gates(self, params: Params, state: State, z: Any, r: Float[Array, "*B G H"]) -> State:
        """Returns the new state from one step's ``z [*batch, G, H]`` and ``r = state.h @ recurrent_weight``."""

    def init(self, key: PRNGKeyArray, input_size: Size) -> Params:
        check_size("input_size", input_size)
        return GatedParams(*self.init_gates(key, input_size, self.gate_count))

    def init_gates(self, key: PRNGKeyArray, input_size: Size, gate_count: int) -> tuple[Array, Array, Array | None]:
        """Returns fresh ``w_x [I, G, H]``, ``w_h [O, G, H]`` and ``b [G, H]``, each gate initialised by itself.

        ``b`` is None without a bias.
        """
        k_x, k_h, k_b = jax.random.split(key, 3)
        shape = (gate_count, self.hidden_size)
        return (
            gate_kernels(self.kernel_init, k_x, int(input_size), *shape, self.param_dtype),
            gate_kernels(self.recurrent_init, k_h, self.output_size, *shape, self.param_dtype),
            gate_vectors(self.bias_init, k_b, *shape, self.param_dtype) if self.use_bias else None,
        )

    def recurrent_weight(self, params: Params) -> Float[Array, "O G H"]:
        """Returns the weight that multiplies the hidden state at every step."""
        return params.w_h

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        return HiddenState(self.zeros(batch_size, self.hidden_size, dtype))

    def zeros(self, batch_size: int | tuple[int, ...], size: int, dtype: DTypeLike) -> Array:
        """Returns zeros ``[*batch, size]`` of the type that the state is kept in, given that of the inputs."""
        return jnp.zeros((*batch_shape(batch_size), size), self._state_dtype(dtype))

    def _state_dtype(self, dtype: DTypeLike) -> DTypeLike:
        return self.state_dtype or at_least_float32(self.dtype or dtype)

    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        return self.gate_inputs(params, self.project(params.w_x, xs))

    def gate_inputs(self, params: Params, zs: Float[Array, "*N G H"]) -> Any:
        """Returns what `inputs` does, from inputs that are already projected: ``zs = xs @ w_x``, plus the bias.

        A cell that does more with projected inputs overrides this rather than `inputs`, so that they can come from
        elsewhere than a product, such as a lookup.
        """
        return add_bias(zs, params.b)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        ys, state = recur(self, params, self.inputs(params, xs, key=key), state, initial, xs)
        return self.outputs(params, ys), state

    def project(self, w_x: Float[Array, "I G H"], xs: Float[Array, "*N I"]) -> Float[Array, "*N G H"]:
        """Returns ``xs @ w_x``, the input projection of all steps as one product, in the compute type."""
        if xs.shape[-1] != w_x.shape[0]:
            raise ValueError(f"xs has {xs.shape[-1]} features, but the cell was initialised for {w_x.shape[0]}")
        dtype = self.dtype or xs.dtype
        zs = _product(xs.astype(dtype), matrix(w_x).astype(dtype))
        return zs.reshape(*xs.shape[:-1], *w_x.shape[1:])

    def advance(self, params: Params, state: State, z: Any) -> State:
        r = recurrent_product(state.h, self.recurrent_weight(params), compute_dtype(z))
        new = self.gates(params, state, z, r)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)

    def read(self, params: Params, state: State, z: Any) -> Array:
        return state.h.astype(compute_dtype(z))


def add_bias(zs: Float[Array, "*N G H"], b: Float[Array, "G H"] | None) -> Float[Array, "*N G H"]:
    """Returns projected inputs with a bias added, if there is one."""
    return zs if b is None else zs + b.astype(zs.dtype)


def recurrent_product(h: Float[Array, "*B K"], w: Float[Array, "K ..."], dtype: DTypeLike) -> Array:
    """Returns ``h @ w`` with operands of `dtype`, accumulated and returned in the type of `h`."""
    r = jnp.tensordot(h.astype(dtype), matrix(w).astype(dtype), 1, preferred_element_type=h.dtype)
    return r.reshape(*h.shape[:-1], *w.shape[1:])


@jax.custom_jvp
def _product(xs: Float[Array, "*N I"], w: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    return jnp.tensordot(xs, w, 1)


@_product.defjvp
def _derivative_of_product(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The usual one; the gradient of `w` is a product of two matrices."""
    (xs, w), (d_xs, d_w) = primals, tangents
    ys = _product(xs, w)
    return ys, _product(d_xs, w) + jnp.tensordot(rows(xs), d_w, 1).reshape(ys.shape)


def matrix(w: Float[Array, "K ..."]) -> Float[Array, "K N"]:
    """Returns a weight with one axis of outputs: its gradient then needs no transposition."""
    return w.reshape(w.shape[0], -1)


def rows(xs: Float[Array, "... K"]) -> Array:
    """Returns a sequence as a matrix where the gradient of a weight is then faster, else as it is."""
    return xs.reshape(-1, xs.shape[-1]) if sequences_as_matrices() else xs


def compute_dtype(z: Any) -> jnp.dtype:
    """Returns the type in which a cell computes its products: that of what its `inputs` returned."""
    return jnp.result_type(*jax.tree.leaves(z))
