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

from rnnjax.cells.checks import check_floating, check_params, check_state
from rnnjax.cells.randomness import TimedKey
from rnnjax.cells.representation import as_code
from rnnjax.cells.sizes import Size
from rnnjax.cells.told_apart import ToldApart, check_told_apart

Params = Any
State = Any
Recur = Callable[..., tuple[Array, State]]
Key = PRNGKeyArray | TimedKey | None


class Cell(ToldApart, ABC):
    """A recurrent cell: hashable, without arrays; its parameters are a separate pytree.

    A sequence is computed in three parts: `inputs` computes everything that does not depend on the state, for all steps
    at once; `step` is repeated over time; `outputs` computes what no later step needs, again for all steps at once.
    Sequences are time-major here, ``[T, *batch, ...]``; `rnnjax.unroll` takes either order.

    Derive from it as a frozen dataclass, or from `GatedCell` or `LinearCell` if the cell is of that kind. What follows
    from its fields may be a `functools.cached_property`, with NumPy's arrays in the place of JAX's. A subclass
    defines `output_size`, `init`, `initial_state`, `inputs`, and either `step` or its two halves, `advance` and `read`,
    between which a wrapper can change the new state.

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

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # Otherwise `dataclass` gives each class a repr of its own, which shows every field.
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__

    def __repr__(self) -> str:
        return as_code(self) if dataclasses.is_dataclass(self) else super().__repr__()

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
        """Returns the state before the first step, each leaf ``[*batch, ...]``; `start` has one that is learned.

        Args:
          batch_size: the size of the batch axis, or a tuple of sizes for another number of batch axes.
          dtype: type of the inputs.
        """

    @abstractmethod
    def inputs(self, params: Params, xs: Float[Array, "*N I"], *, key: Key = None) -> Any:
        """Returns what the steps read: a pytree, each leaf ``[T, *batch, ...]``.

        Args:
          params: the parameters.
          xs: inputs ``[T, *batch, I]``. Those of missing steps are zeros, where values and derivatives must be finite:
            ``x / jnp.linalg.norm(x)`` has neither there, and its NaN would reach the gradient of the parameters.
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
        """Returns the outputs from the ``y`` of every step, row by row; the identity unless it is overridden."""
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
          recur: ``recur(cell, params, zs, state, initial, xs=None, may_finish=False) -> (ys, state)`` repeats `step`.
            A cell passes `xs` if `inputs` computes `zs` from them alone; a method may then ignore `zs` and compute it
            otherwise. With `may_finish`, the outputs may come back as `Finished`.
          params: the parameters.
          xs: inputs ``[T, *batch, I]``.
          state: the state before the first step, each leaf ``[*batch, ...]``.
          initial: the state that resets go back to; None without resets.
          key: PRNG key; None means evaluation.
        """
        zs = self.inputs(params, xs, key=key)
        ys, state = recur(self, params, zs, state, initial, may_finish=True)
        return self.finished(params, ys), state

    def finished(self, params: Params, ys: Any) -> Array:
        """Returns the outputs from what `recur` returned with `may_finish`."""
        return ys.outputs if isinstance(ys, Finished) else self.outputs(params, ys)

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
          TypeError: for an input that is not floating point; for a cell that is not told from others.
          ValueError: for shapes that do not fit the cell.
        """
        check_told_apart(self)
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


class Finished(NamedTuple):
    """What `Cell.outputs` returned of all steps, where a method has called it."""

    outputs: Array


def _undefined(cell: Cell, half: str) -> str:
    return f"{type(cell).__name__} must define step, or both advance and read; it has no {half}"


def compute_dtype(z: Any) -> jnp.dtype:
    """Returns the type in which a cell computes its products, that of what its `inputs` returned."""
    return jnp.result_type(*jax.tree.leaves(z))
