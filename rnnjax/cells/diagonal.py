"""The contract of a diagonal cell, which is not linear but keeps its units apart, and such cells."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.activations import Activation, activation_function, complement
from rnnjax.cells.cell import Cell, HiddenState, Key, Params, Recur, State, add_bias, compute_dtype
from rnnjax.cells.initializers import Initializer, gate_kernels, gate_vectors, initializer, vector_initializer
from rnnjax.cells.lstm import LSTMState
from rnnjax.cells.projecting import keep_dtypes, project
from rnnjax.cells.sizes import Size, batch_shape, check_size, keep_sizes
from rnnjax.dtypes import at_least_float32


class DiagonalParams(NamedTuple):
    """Parameters of a diagonal cell: ``w_x [I, G, H]``, ``w_h [G, H]``, and ``b [G, H]`` (None without a bias)."""

    w_x: Array
    w_h: Array
    b: Array | Any


@dataclasses.dataclass(frozen=True)
class DiagonalCell(Cell):
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

    hidden_size: int
    _: dataclasses.KW_ONLY
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    state_dtype: DTypeLike | None = None
    kernel_init: str | Initializer = "glorot_uniform"
    bias_init: str | Initializer = "zeros"
    use_bias: bool = True
    recurrent_init: str | Initializer | None = None

    gate_count: ClassVar[int] = 1

    def __post_init__(self):
        keep_sizes(self, "hidden_size")
        initializer(self.kernel_init)
        vector_initializer(self.bias_init)
        keep_dtypes(self, "dtype", "param_dtype", "state_dtype")
        if self.recurrent_init is not None:
            vector_initializer(self.recurrent_init)

    @property
    def output_size(self) -> int:
        return self.hidden_size

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

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        return HiddenState(self.zeros(batch_size, dtype))

    def zeros(self, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """Returns zeros ``[*batch, H]`` in the type of the state, for inputs of type `dtype`."""
        dtype = self.state_dtype or at_least_float32(self.dtype or dtype)
        return jnp.zeros((*batch_shape(batch_size), self.hidden_size), dtype)

    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        return add_bias(project(params.w_x, xs, self.dtype), params.b)

    def over_time(self, recur: Recur, params: Params, xs: Array, state: State, initial: State, key: Key):
        ys, state = recur(self, params, self.inputs(params, xs, key=key), state, initial, xs)
        return self.outputs(params, ys), state

    def advance(self, params: Params, state: State, z: Any) -> State:
        dtype = state.h.dtype
        h, w_h = state.h[..., None, :], params.w_h.astype(dtype)
        # In full, so that the gradient of the weights is one sum.
        r = h * jnp.broadcast_to(w_h, (*h.shape[:-2], *w_h.shape))
        new = self.gates(params, state, jax.tree.map(lambda leaf: _at_least(dtype, leaf), z), r)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)

    def read(self, params: Params, state: State, z: Any) -> Array:
        """Returns ``y`` of one step or of many: the arguments may have any leading axes, here as in `advance`."""
        return state.h.astype(compute_dtype(z))


def _at_least(dtype: DTypeLike, leaf: Array) -> Array:
    """Returns an array of floating-point numbers in a type that holds those of `dtype` too, any other as it is."""
    return leaf.astype(np.promote_types(leaf.dtype, dtype)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@dataclasses.dataclass(frozen=True)
class IndRNN(DiagonalCell):
    """The independently recurrent network (Li et al., 2018, "Building a longer and deeper RNN").

    h' = activation(x W + u * h + b);  y = h'

    Parameters are `DiagonalParams` with one gate, u being ``w_h``; the state is `HiddenState`. As published, u starts
    uniform in [0, recurrent_limit], in [0, 1] without a limit.

    Attributes:
      activation: a name (``"relu"``, ``"tanh"``, ...) or a pointwise function.
      recurrent_limit: the largest size of u, to which it is clipped; None: not clipped. With ``"relu"`` the paper takes
        2 ** (1 / T) for sequences of T steps, so that neither states nor gradients explode.

    Raises:
      ValueError: for an unknown activation, or a limit that is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.IndRNN(8, recurrent_limit=2 ** (1 / 5))
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, params.w_h.shape
      ((2, 5, 8), (1, 8))
    """

    activation: str | Activation = "relu"
    recurrent_limit: float | None = None

    def __post_init__(self):
        super().__post_init__()
        activation_function(self.activation)
        if self.recurrent_limit is not None and not self.recurrent_limit > 0:
            raise ValueError(f"recurrent_limit must be positive, or None for none, got {self.recurrent_limit}")

    def published_recurrent(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, " H"]:
        largest = 1.0 if self.recurrent_limit is None else self.recurrent_limit
        return jax.random.uniform(key, shape, at_least_float32(dtype), 0.0, largest).astype(dtype)

    def advance(self, params: DiagonalParams, state: HiddenState, z: Float[Array, "*N 1 H"]) -> HiddenState:
        if self.recurrent_limit is not None:
            w_h = jnp.clip(params.w_h, -self.recurrent_limit, self.recurrent_limit)
            params = params._replace(w_h=w_h)
        return super().advance(params, state, z)

    def gates(self, params: DiagonalParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        return HiddenState(activation_function(self.activation)((z + r)[..., 0, :]))


class _ParaCell(DiagonalCell):
    """What the cells of ParaRNN share: how they start."""

    def published_recurrent(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, " H"]:
        deviation = 2 / math.sqrt(5 * self.hidden_size)
        return (deviation * jax.random.normal(key, shape, at_least_float32(dtype))).astype(dtype)

    def init_gates(self, key: PRNGKeyArray, input_size: Size) -> tuple[Array, Array, Array | None]:
        w_x, w_h, b = super().init_gates(key, input_size)
        spread = jnp.linspace(0, 1, self.hidden_size, dtype=self.param_dtype)
        return w_x, w_h, None if b is None else b.at[0].add(-spread)


@dataclasses.dataclass(frozen=True)
class ParaGRU(_ParaCell):
    """The GRU with diagonal recurrent weights (Danieli et al., 2025, "ParaRNN").

    z = sigmoid(x W_z + a_z * h + b_z)
    r = sigmoid(x W_r + a_r * h + b_r)
    n = tanh(x W_n + a_n * (r * h) + b_n)
    h' = (1 - z) * h + z * n;  y = h'

    Parameters are `DiagonalParams` with the gates z, r, n, a being ``w_h``; the state is `HiddenState`. As published, a
    starts normal with standard deviation 2 / sqrt(5 H), W by Glorot's uniform initialiser, and b at zero but for b_z,
    which goes from 0 in the first unit to -1 in the last. The paper's W are in blocks of heads; here they are whole.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.ParaGRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, params.w_h.shape
      ((2, 5, 8), (3, 8))
    """

    gate_count: ClassVar[int] = 3

    def gates(self, params: DiagonalParams, state: HiddenState, z: Array, r: Array) -> HiddenState:
        update, reset = z[..., 0, :] + r[..., 0, :], jax.nn.sigmoid(z[..., 1, :] + r[..., 1, :])
        candidate = jnp.tanh(z[..., 2, :] + reset * r[..., 2, :])
        return HiddenState(complement(jax.nn.sigmoid, update) * state.h + jax.nn.sigmoid(update) * candidate)


class ParaLSTMParams(NamedTuple):
    """Those of `DiagonalParams`, and the peepholes ``w_c [2, H]`` of the gates f and o."""

    w_x: Array
    w_h: Array
    b: Array | Any
    w_c: Array


@dataclasses.dataclass(frozen=True)
class ParaLSTM(_ParaCell):
    """The LSTM with diagonal recurrent weights, peepholes and coupled gates (Danieli et al., 2025, "ParaRNN").

    f = sigmoid(x W_f + a_f * h + p_f * c + b_f)
    n = tanh(x W_n + a_n * h + b_n)
    c' = f * c + (1 - f) * n
    o = sigmoid(x W_o + a_o * h + p_o * c' + b_o)
    h' = o * tanh(c');  y = h'

    Parameters are `ParaLSTMParams` with the gates f, n, o, a being ``w_h`` and p ``w_c``; the state is `LSTMState`. As
    published, a and p start normal with standard deviation 2 / sqrt(5 H), W by Glorot's uniform initialiser, and b at
    zero but for b_f, which goes from 0 in the first unit to -1 in the last. The paper's W are in blocks of heads; here
    they are whole.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.ParaLSTM(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape, state.c.shape, params.w_c.shape
      ((2, 5, 8), (2, 8), (2, 8))
    """

    gate_count: ClassVar[int] = 3

    def init(self, key: PRNGKeyArray, input_size: Size) -> ParaLSTMParams:
        k_gates, k_c = jax.random.split(key)
        return ParaLSTMParams(*self.init_gates(k_gates, input_size), self.vectors(k_c, 2))

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> LSTMState:
        zeros = self.zeros(batch_size, dtype)
        return LSTMState(zeros, zeros)

    def gates(self, params: ParaLSTMParams, state: LSTMState, z: Array, r: Array) -> LSTMState:
        forget, candidate, output = jnp.moveaxis(z + r, -2, 0)
        peepholes = params.w_c.astype(state.c.dtype)
        # In full, so that their gradient is one sum.
        of_forget, of_output = (jnp.broadcast_to(each, state.c.shape) for each in peepholes)
        forget = forget + of_forget * state.c
        kept = jax.nn.sigmoid(forget) * state.c
        c = kept + complement(jax.nn.sigmoid, forget) * jnp.tanh(candidate)
        return LSTMState(jax.nn.sigmoid(output + of_output * c) * jnp.tanh(c), c)
