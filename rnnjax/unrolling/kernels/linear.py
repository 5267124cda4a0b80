"""GPU kernels of a linear recurrence, h_t = a_t h_{t-1} + b_t: one pass over memory, each thread a number of the state.

Where a state has too few numbers to keep a GPU busy, the steps are cut into parts: a first kernel computes the one step
that does what all steps of a part do, XLA combines these, and a second kernel computes each part's states from the
state before it. That reads a and b twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnnjax.cells.pairs import Complex, is_complex, plus, times
from rnnjax.unrolling.kernels.gpu_block import compiler_params, gpu, interpreter, loaded
from rnnjax.unrolling.prefixes import Factors, as_tree, conjugate, later_factors, shifted
from rnnjax.unrolling.varying import vary, varying_axes

_LANES = 128  # threads of a warpgroup, one for each of numbers that lie side by side
_WARPGROUPS = 528  # four for each multiprocessor of an H100
_SHORTEST_PART = 32  # steps


def states_by_kernel(
    factors: Factors,
    b: PyTree[Float[Array, "T ..."]],
    h0: PyTree[Float[Array, "..."]],
    reverse: bool,
    *,
    interpret: bool = False,
) -> PyTree[Float[Array, "T ..."]]:
    """Returns all states of a linear recurrence.

    Args:
      factors: what the states are multiplied by.
      b: what is added, a number ``[T, *batch, ...]``.
      h0: the state before the first step.
      reverse: whether to go from the last step to the first.
      interpret: whether to run in JAX's interpreter of GPU kernels, on a CPU.
    """
    length, *shape = jax.tree.leaves(b)[0].shape
    columns = _Columns(tuple(shape))
    sizes = _Sizes(length, parts_of(length, columns.groups), columns.groups, reverse, interpret)
    numbers = _Numbers(columns.from_numbers(factors.a), columns.from_numbers(b), columns.kept(factors.cuts), None)
    start = columns.from_numbers(jax.tree.map(lambda leaf: leaf[None], h0))
    if sizes.parts > 1:
        (of_parts, ends), first = _totals(sizes, numbers), jax.tree.map(lambda leaf: leaf[0], start)
        start = shifted(as_tree(of_parts, ends, first, reverse), first, reverse)
    states = _launch(_states, sizes, numbers._replace(h0=start), numbers.b, length)
    return columns.to_numbers(states)


def states_by_kernel_transposed(
    factors: Factors, g: PyTree[Float[Array, "T ..."]], reverse: bool, *, interpret: bool = False
) -> PyTree[Float[Array, "T ..."]]:
    """Returns the transpose of `states_by_kernel`, from the cotangents of all states to those of `b`.

    Args:
      factors, reverse, interpret: as in `states_by_kernel`.
      g: the cotangents, a number ``[T, *batch, ...]``.
    """
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), g)
    later = later_factors(factors, reverse)
    if len(jax.tree.leaves(factors.a)[0]) < len(jax.tree.leaves(g)[0]):  # it is the same at every step
        later = Factors(conjugate(factors.a), later.cuts)
    return states_by_kernel(later, g, nothing, not reverse, interpret=interpret)


def parts_of(length: int, groups: int) -> int:
    """Returns into how many parts the steps are cut: equal ones, such that warpgroups are as many as wanted, or fewer.

    Args:
      length: number of steps.
      groups: number of warpgroups that all numbers of a state need.
    """
    most = min(-(-_WARPGROUPS // groups), max(1, length // _SHORTEST_PART))
    return next(parts for parts in range(most, 0, -1) if length % parts == 0)


class _Columns(NamedTuple):
    """The numbers of a state side by side: arrays are ``[T, groups, lanes]`` in the kernels, filled up with zeros."""

    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        return -(-math.prod(self.shape) // _LANES)

    def from_numbers(self, numbers: Any) -> Any:
        return jax.tree.map(self._flat, numbers)

    def kept(self, cuts: Array | None) -> Array | None:
        """Returns zero where a number is cut off, one elsewhere."""
        if cuts is None:
            return None
        kept = jnp.where(cuts, 0.0, 1.0).astype(jnp.float32)
        return self._flat(kept.reshape(kept.shape + (1,) * (1 + len(self.shape) - kept.ndim)))

    def _flat(self, leaf: Array) -> Array:
        count = math.prod(self.shape)
        flat = jnp.broadcast_to(leaf, (leaf.shape[0], *self.shape)).reshape(leaf.shape[0], count)
        return jnp.pad(flat, ((0, 0), (0, self.groups * _LANES - count))).reshape(leaf.shape[0], self.groups, _LANES)

    def to_numbers(self, columns: Any) -> Any:
        count = math.prod(self.shape)

        def leaf(leaf: Array) -> Array:
            return leaf.reshape(leaf.shape[0], -1)[:, :count].reshape(leaf.shape[0], *self.shape)

        return jax.tree.map(leaf, columns)


class _Numbers(NamedTuple):
    """What the kernels read, each ``[T, groups, lanes]``.

    Attributes:
      a: the factors, ``[1, groups, lanes]`` where they are the same at every step.
      b: what is added.
      kept: zero where the state is cut off, one elsewhere; None: it never is.
      h0: the state before each part, ``[parts, groups, lanes]``; None where it is not known yet.
    """

    a: Any
    b: Any
    kept: Any
    h0: Any


class _Sizes(NamedTuple):
    """How the work is cut: steps into parts, numbers into warpgroups."""

    length: int
    parts: int
    groups: int
    reverse: bool
    interpret: bool

    @property
    def steps(self) -> int:
        """Number of steps in a part."""
        return self.length // self.parts


class _Place(NamedTuple):
    """The part and the numbers that a warpgroup of a running kernel has."""

    sizes: _Sizes
    part: Any
    group: Any

    def read(self, ref: Any, time: Any) -> Array:
        source = ref.at[time, self.group]
        return self.settled(source[...] if self.sizes.interpret else loaded(source, _lanes()))

    def write(self, ref: Any, time: Any, value: Array) -> None:
        target = ref.at[time, self.group]
        if hasattr(gpu, "store") and not self.sizes.interpret:  # since JAX 0.12
            gpu.store(target, value, optimized=False)
        else:
            target[...] = value

    def full(self, value: float, dtype: Any) -> Array:
        return self.settled(jax.lax.full((_LANES,), value, dtype))

    def settled(self, value: Array) -> Array:
        """Returns a value in the one type and layout that a loop's carry has; see `Block.settled`."""
        value = jax.lax.select(value == value, value, value) if varying_axes(value) else value
        return value if self.sizes.interpret else gpu.layout_cast(value, _lanes())

    def steps(self, step: Callable[[Any, Any], Any], first: Any) -> Any:
        """Repeats a step over the rows of this part."""
        count, reverse = self.sizes.steps, self.sizes.reverse

        def body(i: Any, carry: Any) -> Any:
            row = self.part * count + (count - 1 - i if reverse else i)
            return jax.tree.map(self.settled, step(row, carry))

        return jax.lax.fori_loop(0, count, body, first)


def _lanes() -> Any:
    return gpu.Layout.WG_STRIDED((_LANES,), vec_size=1)


def _states(place: _Place, numbers: _Numbers, hs: Any) -> None:
    """Writes the states after all steps of a part."""

    def step(t: Any, h: Any) -> Any:
        a, b, kept = _at(place, numbers, t)
        h = plus(times(a, _zero_unless(kept, h)), b)
        jax.tree.map(lambda ref, value: place.write(ref, t, value), hs, h)
        return h

    place.steps(step, jax.tree.map(lambda ref: place.read(ref, place.part), numbers.h0))


def _total(place: _Place, numbers: _Numbers, totals: Any) -> None:
    """Writes the one step that does what all steps of a part do."""

    def step(t: Any, so_far: Any) -> Any:
        (product, all_kept), end = so_far
        a, b, kept = _at(place, numbers, t)
        all_kept = None if kept is None else all_kept * kept
        return (times(a, _zero_unless(kept, product)), all_kept), plus(times(a, _zero_unless(kept, end)), b)

    none = jax.tree.map(lambda ref: place.full(0.0, ref.dtype), numbers.b)
    ones = jax.tree.map(lambda ref: place.full(1.0, ref.dtype), numbers.b)
    one = Complex(ones.real, none.imag) if is_complex(none) else ones
    kept = None if numbers.kept is None else place.full(1.0, numbers.kept.dtype)
    result = place.steps(step, ((one, kept), none))
    jax.tree.map(lambda ref, value: place.write(ref, place.part, value), totals, result)


def _at(place: _Place, numbers: _Numbers, t: Any) -> tuple[Any, Any, Any]:
    """Returns one step's factor, what is added, and what is kept."""

    def leaf(ref: Any) -> Array:
        return place.read(ref, 0 if ref.shape[0] == 1 else t)

    return jax.tree.map(leaf, (numbers.a, numbers.b, numbers.kept))


def _zero_unless(kept: Any, number: Any) -> Any:
    """Returns a number, and zero where it is cut off, even if it is not finite."""
    if kept is None:
        return number
    return jax.tree.map(lambda leaf: jax.lax.select(kept > 0, leaf, jnp.zeros_like(leaf)), number)


def _totals(sizes: _Sizes, numbers: _Numbers) -> tuple[Factors, Any]:
    """Returns for each part the one step that does what all of its steps do."""
    (a, kept), b = _launch(_total, sizes, numbers, ((numbers.b, numbers.kept), numbers.b), sizes.parts)
    return Factors(a, None if kept is None else kept == 0), b


def _launch(kernel: Callable[..., None], sizes: _Sizes, numbers: _Numbers, like: Any, rows: int) -> Any:
    """Runs a kernel in a warpgroup for each part and each group of numbers.

    Args:
      kernel: called as ``kernel(place, numbers, outputs)`` with references in the place of arrays.
      sizes: how the work is cut.
      numbers: what it reads.
      like: a tree of arrays with the types of the outputs.
      rows: number of rows of each output.
    """
    arrays, inputs_tree = jax.tree.flatten(numbers)
    leaves, outputs_tree = jax.tree.flatten(like)

    def run_kernel(*refs: Any) -> None:
        place = _Place(sizes, *(jax.lax.axis_index(name) for name in ("part", "columns")))
        kernel(place, inputs_tree.unflatten(refs[: len(arrays)]), outputs_tree.unflatten(refs[len(arrays) :]))

    run = gpu.kernel(
        run_kernel,
        out_type=[jax.ShapeDtypeStruct((rows, sizes.groups, _LANES), leaf.dtype) for leaf in leaves],
        grid=(sizes.parts, sizes.groups),
        grid_names=("part", "columns"),
        compiler_params=compiler_params(False),
        **({"interpret": interpreter()} if sizes.interpret else {}),
    )
    return outputs_tree.unflatten(vary(run(*arrays), varying_axes(arrays)))
