"""A recurrence with random arrays, and compiled programs that run it by a method, forward and with the gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.backend import on_cpu
from rnnjax.cells.cell import Cell, Params, compute_dtype
from rnnjax.cells.traits import makes_z_by_step
from rnnjax.unrolling.cutting import followed_by_reset
from rnnjax.unrolling.kernels.precision import exact_products
from rnnjax.unrolling.recurrence import Method, Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.selecting import select

# The largest error that rounding can explain, as a share of the largest entry.
_TOLERANCES = {"float64": 1e-8, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_TENSOR_FLOAT_32 = 1e-2  # for float32 where products are not exact
_NEGLIGIBLE = 1e-3  # share of the largest entry of all arrays: errors in arrays with smaller entries are relative to it


class _Arrays(NamedTuple):
    """The inputs of a recurrence that have gradients; z is None if it is computed from `xs`."""

    params: Params
    state: Any
    z: Any
    xs: Any


@dataclasses.dataclass(frozen=True)
class Trial:
    """A recurrence with random arrays; its programs include the input projection, if the cell has a plain one.

    Attributes:
      recurrence: the recurrence, as shapes.
      arrays: its inputs.
      flags: which steps are valid, and which are resets.
      weights: weights of outputs and final state in the sum that is differentiated.
    """

    recurrence: Recurrence
    arrays: _Arrays
    flags: Steps
    weights: Any

    @classmethod
    def of(cls, recurrence: Recurrence) -> Trial:
        """Returns a trial of a recurrence, given as shapes.

        Raises:
          ValueError: if it has arrays that cannot be drawn at random.
        """
        draw = np.random.default_rng(0)
        projected = makes_z_by_step(recurrence.cell, recurrence.params, recurrence.xs)
        arrays = _Arrays(
            _params(draw, recurrence.cell, recurrence.params, recurrence.xs),
            _drawn(draw, recurrence.state, 0.1),
            None if projected else _drawn(draw, recurrence.steps.z),
            None if recurrence.xs is None else _drawn(draw, recurrence.xs),
        )
        trial = cls(recurrence, arrays, _flags(draw, recurrence), None)
        outputs = jax.eval_shape(_program(trial, Scan()), arrays, trial.flags)
        return dataclasses.replace(trial, weights=_drawn(draw, outputs))

    @property
    def tolerance(self) -> float:
        """The largest error that rounding can explain."""
        dtype = dtype_of_products(self.recurrence)
        exact = on_cpu() or exact_products()
        return _TENSOR_FLOAT_32 if dtype == "float32" and not exact else _TOLERANCES.get(dtype, 1e-2)

    def forward(self, method: Method) -> Callable[[], Any]:
        """Returns a compiled call that returns the outputs and the final state."""
        program = jax.jit(_program(self, method))
        return lambda: program(self.arrays, self.flags)

    def with_gradient(self, method: Method) -> Callable[[], Any]:
        """Returns a compiled call that returns the same, and the gradients of a weighted sum of them."""
        leaves, tree = jax.tree.flatten(self.arrays)
        positions = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        run = _program(self, method)

        @jax.jit
        def program(leaves: list[Any], flags: Steps, weights: Any) -> Any:
            def outputs(floating: list[Any]) -> Any:
                replaced = dict(zip(positions, floating))
                return run(tree.unflatten([replaced.get(place, leaf) for place, leaf in enumerate(leaves)]), flags)

            results, gradient = jax.vjp(outputs, [leaves[place] for place in positions])
            return results, gradient(weights)

        return lambda: program(leaves, self.flags, self.weights)

    def _with(self, arrays: _Arrays, flags: Steps) -> Recurrence:
        """Returns the recurrence with these arrays."""
        cell, (params, state, z, xs) = self.recurrence.cell, arrays
        z = cell.inputs(params, xs) if z is None else z
        initial = jax.tree.map(jnp.zeros_like, state)
        return self.recurrence._replace(params=params, state=state, initial=initial, steps=flags._replace(z=z), xs=xs)


def _program(trial: Trial, method: Method) -> Callable[[_Arrays, Steps], Any]:
    """Returns a function for outputs and final state; outputs of invalid steps are zero, as in `unroll`."""

    def run(arrays: _Arrays, flags: Steps) -> Any:
        ys, state = method.serve(trial._with(arrays, flags))
        if trial.recurrence.may_finish:
            ys = trial.recurrence.cell.finished(arrays.params, ys)
        return ys if flags.valid is None else select(flags.valid, ys, jnp.zeros_like(ys)), state

    return run


def dtype_of_products(recurrence: Recurrence) -> str:
    """Returns the dtype of a recurrence's products; z may contain keys and step numbers, which have none."""
    floating = [leaf for leaf in jax.tree.leaves(recurrence.steps.z) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.dtype(compute_dtype(floating or jax.tree.leaves(recurrence.state))).name


def largest_error(got: Any, expected: Any) -> float:
    """Returns the largest difference between two trees, as a share of the array's largest entry; possibly NaN."""
    actual, right = (jax.tree.leaves(jax.device_get(tree)) for tree in (got, expected))
    if [leaf.shape for leaf in actual] != [leaf.shape for leaf in right]:
        return float("nan")
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(actual, right) if a.size]
    largest = max((np.abs(b).max() for _, b in pairs), default=0.0)
    least = max(_NEGLIGIBLE * largest, np.finfo(np.float32).tiny)
    return float(np.max([np.abs(a - b).max() / max(np.abs(b).max(), least) for a, b in pairs] or [0.0]))


def _params(draw: np.random.Generator, cell: Cell, like: Params, xs: Any) -> Params:
    """Returns parameters near those of `init`, if it returns all that the recurrence reads; otherwise small numbers."""
    if xs is not None and cell.params_are_of_init:
        initial = cell.init(jax.random.key(0), xs.shape[-1])
        if jax.tree.map(_shape, initial) == jax.tree.map(_shape, like):
            return jax.tree.map(lambda leaf, change: leaf + change, initial, _drawn(draw, like, 0.01))
    return _drawn(draw, like, 0.2)


def _shape(leaf: Any) -> tuple[Any, ...]:
    return (leaf.shape, jnp.dtype(leaf.dtype))


def _drawn(draw: np.random.Generator, like: Any, scale: float = 0.5) -> Any:
    """Returns arrays of the given shapes: normally distributed floats, keys, and zeros for integers and booleans."""

    def leaf(like: Any) -> Any:
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return _keys(like)
        if not jnp.issubdtype(like.dtype, jnp.floating):
            return jnp.zeros(like.shape, like.dtype)
        return jnp.asarray(scale * draw.standard_normal(like.shape, np.float32)).astype(like.dtype)

    return jax.tree.map(leaf, like)


def _keys(like: Any) -> Any:
    keys = jax.random.split(jax.random.key(0), like.shape)
    if keys.dtype != like.dtype:
        raise ValueError(f"keys of the type {like.dtype} cannot be drawn for a measurement")
    return keys


def _flags(draw: np.random.Generator, recurrence: Recurrence) -> Steps:
    """Returns steps without z: at least half of each sequence is valid, and one step is a reset."""
    steps, length = recurrence.steps, recurrence.length
    valid = resets = followed = None
    if steps.valid is not None:
        lengths = draw.integers((length + 1) // 2, length + 1, steps.valid.shape[1:])
        valid = jnp.asarray(np.arange(length).reshape(-1, *[1] * lengths.ndim) < lengths)
    if steps.resets is not None:
        resets = jnp.zeros(steps.resets.shape, bool).at[length // 3].set(True)
        followed = followed_by_reset(resets)
    return Steps(None, valid, resets, followed)
