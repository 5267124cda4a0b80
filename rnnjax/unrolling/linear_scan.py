"""The linear recurrence below every linear cell, with a derivative that is one such recurrence too."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from rnnjax.backend import on_gpu, scans_in_order
from rnnjax.cells.checks import check_floating
from rnnjax.cells.pairs import Complex, is_complex, plus, times
from rnnjax.dtypes import at_least_float32
from rnnjax.unrolling.chunks import WHOLE, Chunks
from rnnjax.unrolling.cutting import followed_by_reset
from rnnjax.unrolling.prefixes import (
    Factors,
    as_tree,
    as_tree_transposed,
    broadcast_over_time,
    combined,
    conjugate,
    in_order,
    in_order_transposed,
    shifted,
)
from rnnjax.unrolling.selecting import all_finite, select, zeros_where
from rnnjax.unrolling.varying import vary, varying_axes

Implementation = Literal["scan", "associative", "pallas"]


def _by_kernel(*arguments: Any, interpret: bool) -> Any:
    from rnnjax.unrolling.kernels.linear import states_by_kernel  # takes long to import

    return states_by_kernel(*arguments, interpret=interpret)


def _by_kernel_transposed(*arguments: Any, interpret: bool) -> Any:
    from rnnjax.unrolling.kernels.linear import states_by_kernel_transposed  # takes long to import

    return states_by_kernel_transposed(*arguments, interpret=interpret)


_FORWARD: dict[Any, Any] = {"scan": in_order, "associative": as_tree, "pallas": _by_kernel}
_TRANSPOSED: dict[Any, Any] = {
    "scan": in_order_transposed,
    "associative": as_tree_transposed,
    "pallas": _by_kernel_transposed,
}


def linear_scan(
    a: Any,
    b: Any,
    h0: Any = None,
    *,
    reverse: bool = False,
    resets: Bool[ArrayLike, "T *B"] | None = None,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Any:
    """Returns all states of h_t = a_t * h_{t-1} + b_t, elementwise, over time-major arrays.

    It is computed in float32 at least. Its derivative is one scan more of the same kind: forward in `jax.jvp`, backward
    in `jax.grad`, and everything else in it is pointwise.

    Args:
      a: the factors, ``[T, *batch, ...]`` or anything that broadcasts to the shape of `b`; where it has no time axis,
        or one of size 1, it is the same at every step. An array, or a `Complex` pair of arrays if `b` is one.
      b: what is added, ``[T, *batch, ...]``; an array or a `Complex` pair.
      h0: the state before the first step, as one step of `b`; None: zeros.
      reverse: whether to go from the last step to the first, h_t = a_t * h_{t+1} + b_t.
      resets: ``[T, *batch]``, true where the state is set to zero before that step. What lies before, even if it is not
        finite, changes no value and no gradient after it.
      implementation: "scan", one step after another in a loop; "associative", `jax.lax.associative_scan`, a tree whose
        products of factors must not overflow (they cannot where no factor is above 1 in size); "pallas", a GPU kernel
        with a loop for each number of the state, over parts of the steps, with such products, where these are few.
        None takes the first on a CPU, which it keeps as busy as its memory allows, and the second elsewhere.
      interpret: runs "pallas" in JAX's interpreter of GPU kernels, on a CPU, to test it.

    Returns:
      The states after all steps, of the shape and type of `b`. The last one is ``hs[-1]``, with `reverse` ``hs[0]``.

    Raises:
      ValueError: for shapes that do not fit, another implementation, or "pallas" without a GPU.
      TypeError: for factors or what is added that are not floating point.

    Example:
      >>> import jax.numpy as jnp, rnnjax
      >>> print(rnnjax.linear_scan(jnp.array(0.5), jnp.ones((4, 1)))[:, 0])
      [1.    1.5   1.75  1.875]
    """
    a, b, h0 = checked_numbers(a, b, h0)
    check_implementation(implementation)
    reason = why_not_here(implementation, jax.tree.leaves(b)[0].dtype, interpret)
    if reason is not None:
        raise ValueError(reason)
    followed = None
    if resets is not None:
        resets = _checked_resets(resets, b)
        followed = _followed(resets, reverse)
    if 0 in jax.tree.leaves(b)[0].shape:
        return b
    return typed_scan(
        ScanSettings(implementation, reverse, interpret=interpret), ScanArrays(a, b, h0, resets, followed)
    )


class ScanSettings(NamedTuple):
    """How a scan is computed.

    Attributes:
      implementation, reverse: as in `linear_scan`.
      chunks: the other parts of the sequence.
      interpret: as in `linear_scan`.
    """

    implementation: Implementation | None
    reverse: bool = False
    chunks: Chunks = WHOLE
    interpret: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What the implementation alone takes."""
        return {"interpret": self.interpret} if self.implementation == "pallas" else {}


class ScanArrays(NamedTuple):
    """What `linear_scan` takes, and at which steps a reset follows."""

    a: Any
    b: Any
    h0: Any
    resets: Bool[Array, "T *B"] | None
    followed: Bool[Array, "T *B"] | None


def typed_scan(settings: ScanSettings, arrays: ScanArrays) -> Any:
    """Returns all states in the type of `b`, computed in float32 at least, from arrays that have been checked."""
    dtype = jax.tree.leaves(arrays.b)[0].dtype
    a, b, h0 = _with_type(at_least_float32(dtype), arrays[:3])
    arrays = vary(ScanArrays(a, b, h0, *arrays[3:]), varying_axes(arrays))
    implementation = settings.implementation or ("scan" if scans_in_order() else "associative")
    return _with_type(dtype, _scanned(settings._replace(implementation=implementation), arrays))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _scanned(settings: ScanSettings, arrays: ScanArrays) -> Any:
    return _solved(settings, _factors(arrays.a, arrays.resets), arrays.b, arrays.h0)


def _solved(settings: ScanSettings, factors: Factors, b: Any, h0: Any) -> Any:
    reverse = settings.reverse
    h0 = settings.chunks.start(combined, _pairs(factors, b), h0, reverse)
    return _FORWARD[settings.implementation](factors, b, h0, reverse, **settings.options)


@_scanned.defjvp
def _derivative(settings: ScanSettings, primals: tuple[ScanArrays], tangents: tuple[ScanArrays]) -> tuple[Any, Any]:
    """d h_t = a_t d h_{t-1} + (d a_t h_{t-1} + d b_t); what a reset cuts off has no part in it."""
    (arrays,), (change,) = primals, tangents
    hs = _scanned(settings, arrays)
    before = states_before(settings, hs, arrays.h0)
    cuts, d_b = arrays.resets, change.b
    if cuts is not None and arrays.followed is not None:
        lost = lost_to_resets(arrays.followed, cuts, before, hs)
        before, d_b = zeros_where(lost | cuts, before), zeros_where(lost, d_b)
        cuts = cuts | lost
    factors = _factors(arrays.a, cuts)
    by_h0 = settings.chunks.at_start(_first_product(factors, change.h0, settings.reverse), settings.reverse)
    d_b = plus(plus(d_b, times(_of_all_steps(change.a, before), before)), at_first(by_h0, d_b, settings.reverse))
    return hs, _linear(settings, factors, d_b)


def states_before(settings: ScanSettings, hs: Any, h0: Any) -> Any:
    """Returns the state before each step."""
    return shifted(hs, settings.chunks.before(hs, h0, settings.reverse), settings.reverse)


def _pairs(factors: Factors, b: Any) -> tuple[Factors, Any]:
    """Returns the steps as what neighbours are combined of: factors of the shape of what is added, and that."""
    return Factors(broadcast_over_time(factors.a, b), factors.cuts), b


def _linear(settings: ScanSettings, factors: Factors, b: Any) -> Any:
    """Returns the states that follow from zeros, as a function that JAX knows to be linear in `b`, with its transpose.

    It solves h_t - a_t h_{t-1} = b_t.
    """
    reverse, chunks = settings.reverse, settings.chunks
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), b)

    def equations(hs: Any) -> Any:
        products = times(factors.a, states_before(settings, hs, zeros))
        return jax.tree.map(lambda h, product: h - product, hs, products)

    def solve(_: Any, b: Any) -> Any:
        return _solved(settings, factors, b, zeros)

    def solve_transposed(_: Any, g: Any) -> Any:
        later = chunks.start(combined, _transposed_steps(factors, g), zeros, not reverse)
        g = jax.tree.map(jnp.add, g, at_first(later, g, not reverse))
        return _TRANSPOSED[settings.implementation](factors, g, reverse, **settings.options)

    return jax.lax.custom_linear_solve(equations, _tied(b), solve, solve_transposed)


def _transposed_steps(factors: Factors, g: Any) -> tuple[Factors, Any]:
    """Returns the steps of the transposed recurrence of what each step hands on to the one before it.

    Such a step is to add the cotangent of its state, and to multiply then.
    """
    a = conjugate(factors.a)
    earlier = times(a, g)
    return _pairs(Factors(a, factors.cuts), earlier if factors.cuts is None else zeros_where(factors.cuts, earlier))


def _tied(b: Any) -> Any:
    """Returns a number whose parts are all functions of each other, by a sum over nothing.

    JAX transposes no solution of equations where a part of the known side is constant while another is not.
    """
    if not is_complex(b):
        return b
    nothing = b.real[:0].sum(0) + b.imag[:0].sum(0)
    return Complex(b.real + nothing, b.imag + nothing)


def _of_all_steps(a: Any, like: Any) -> Any:
    """Returns factors of the shape of all states, such that their gradient is one sum over all axes without them.

    On a CPU, XLA takes 20 times as long for a sum over time that leaves a batch axis of size 1.
    """
    shape = jax.tree.leaves(like)[0].shape

    def leaf(a: Array) -> Array:
        first = next((axis for axis, size in enumerate(a.shape) if size != 1), a.ndim)
        return jnp.broadcast_to(a.reshape(a.shape[first:]), shape)

    return jax.tree.map(leaf, a)


def _first_product(factors: Factors, h0: Any, reverse: bool) -> Any:
    """Returns the state before the first step times that step's factor; zero where it is cut off."""
    first = -1 if reverse else 0
    product = times(jax.tree.map(lambda leaf: leaf[first], factors.a), h0)
    return product if factors.cuts is None else zeros_where(factors.cuts[first], product)


def at_first(number: Any, like: Any, reverse: bool) -> Any:
    """Returns numbers for all steps, which are zero but for the step that is taken first."""

    def leaf(number: Array, like: Array) -> Array:
        others = (0, 0, 0)
        others_before = like.shape[0] - 1  # not `len`, which must be known
        time = (others_before, 0, 0) if reverse else (0, others_before, 0)
        return jax.lax.pad(number[None], jnp.zeros((), number.dtype), [time, *[others] * (like.ndim - 1)])

    return jax.tree.map(leaf, number, like)


def _factors(a: Any, cuts: Bool[Array, "T *B"] | None) -> Factors:
    """Returns factors that are zero at the cuts."""
    if cuts is None:
        return Factors(a, None)
    zero = lambda leaf: select(cuts, jnp.zeros_like(leaf), leaf)  # noqa: E731
    return Factors(jax.tree.map(zero, a), cuts)


def _followed(resets: Bool[Array, "T *B"], reverse: bool) -> Bool[Array, "T *B"]:
    """Returns whether a reset comes after each step, in the order in which the steps are taken."""
    return jnp.flip(followed_by_reset(jnp.flip(resets, 0)), 0) if reverse else followed_by_reset(resets)


def lost_to_resets(
    followed: Bool[Array, "T *B"], resets: Bool[Array, "T *B"], before: Any, hs: Any
) -> Bool[Array, "T *B"]:
    """Returns which steps met or made something that is not finite, which a reset later cuts off.

    Args:
      followed: whether a reset comes after each step.
      resets: which sequences are reset before each step.
      before: the states before all steps, each leaf ``[T, *batch, ...]``.
      hs: the states after them.
    """
    before = zeros_where(resets, before)
    return followed & ~(all_finite(before, resets.ndim) & all_finite(hs, resets.ndim))


def _with_type(dtype: Any, numbers: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), numbers)


def checked_numbers(a: Any, b: Any, h0: Any) -> tuple[Any, Any, Any]:
    """Returns numbers as arrays, the factors with as many axes as what is added, and zeros for no state."""
    a, b = jax.tree.map(jnp.asarray, (a, b))
    if is_complex(a) and not is_complex(b):
        raise ValueError("with Complex factors a, b must be a Complex pair too, got an array")
    for name, number in (("a", a), ("b", b)):
        for leaf in jax.tree.leaves(number):
            check_floating(name, leaf)
    shape = jnp.shape(jax.tree.leaves(b)[0])
    if not shape:
        raise ValueError("b must have shape [T, *batch, ...], one axis at least, got []")
    for leaf in jax.tree.leaves((a, b)):
        if not _fits(leaf.shape, shape):
            raise ValueError(f"a must broadcast to the shape {list(shape)} of b, got {list(leaf.shape)}")
    if h0 is None:
        h0 = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=leaf.shape[1:]), b)
    h0 = jax.tree.map(jnp.asarray, h0)
    if jax.tree.map(jnp.shape, h0) != jax.tree.map(lambda leaf: leaf.shape[1:], b):
        raise ValueError(f"h0 must have the shape {list(shape[1:])} of one step of b, got {_shapes(h0)}")
    return jax.tree.map(lambda leaf: leaf.reshape((1,) * (len(shape) - leaf.ndim) + leaf.shape), a), b, h0


def _fits(shape: tuple[int, ...], like: tuple[int, ...]) -> bool:
    """Returns whether a shape broadcasts to another."""
    return len(shape) <= len(like) and all(a in (1, b) for a, b in zip(shape[::-1], like[::-1]))


def _shapes(numbers: Any) -> str:
    return " and ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(numbers))


def check_implementation(implementation: Any) -> None:
    """Raises unless it is one of the implementations, or None."""
    if implementation is not None and implementation not in _FORWARD:
        raise ValueError(f'implementation must be "scan", "associative", "pallas" or None, got {implementation!r}')


def why_not_here(implementation: Implementation | None, dtype: Any, interpret: bool) -> str | None:
    """Returns in one sentence why an implementation cannot run on this machine; None if it can.

    Args:
      implementation, interpret: as in `linear_scan`.
      dtype: type of the states.
    """
    if implementation != "pallas" or interpret:
        return None
    if not on_gpu():
        return 'implementation="pallas" needs a GPU, and JAX has none here; use "scan" or "associative"'
    if at_least_float32(dtype) != jnp.float32:
        return f'implementation="pallas" computes in float32, got {jnp.dtype(dtype)}; use "associative"'
    return None


def _checked_resets(resets: Any, b: Any) -> Bool[Array, "T *B"]:
    resets, shape = jnp.asarray(resets), jax.tree.leaves(b)[0].shape
    if resets.dtype != bool:
        raise TypeError(f"resets must be bool, got {resets.dtype}; convert it, for example with resets.astype(bool)")
    if resets.ndim == 0 or shape[: resets.ndim] != resets.shape:
        raise ValueError(f"resets must be [T, *batch], the first axes of b {list(shape)}, got {list(resets.shape)}")
    return resets
