"""A recurrence by its compiled kernel, as a function that JAX can differentiate and map.

It is a primitive of JAX, since functions with a `custom_vjp` have no rule for `jax.jvp`, and no other than their own
gradient's for `jax.vmap`: here a mapped axis is one more of the batch, so that the gradient of a mapped recurrence is
that of one. Its tangents are a second primitive, which another method computes, and whose transpose is the kernel
backward.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from rnnjax.unrolling.native.kernel import Differentiable, Kernel, Masks
from rnnjax.unrolling.recurrence import Recurrence
from rnnjax.unrolling.varying import vary, varying_axes


@dataclasses.dataclass(frozen=True, eq=False)  # as a parameter of a primitive it must be hashable, whatever the cell is
class _Call:
    """What a recurrence is besides its arrays.

    Attributes:
      kernel: the compiled kernel of its cell.
      structure: of the pair of the arrays that have gradients and the masks, whose leaves the primitives take.
    """

    kernel: Kernel
    structure: Any

    def trees(self, leaves: Sequence[Any]) -> tuple[Differentiable, Masks]:
        """Returns what the first leaves are of, kept arrays and tangents being behind them."""
        return self.structure.unflatten(leaves[: self.structure.num_leaves])

    def batch_places(self) -> list[int | None]:
        """Returns for each leaf at which of its axes the batch begins; None for parameters, which have none."""
        arrays, _ = self.trees(range(self.structure.num_leaves))
        params, states = (len(jax.tree.leaves(tree)) for tree in (arrays.params, (arrays.state, arrays.initial)))
        return [*[None] * params, *[0] * states, *[1] * (self.structure.num_leaves - params - states)]


def run(recurrence: Recurrence, kernel: Kernel) -> list[Array]:
    """Returns the outputs of the kernel that was compiled for a recurrence."""
    steps, projected = recurrence.steps, kernel.plan.projected
    initial = None if steps.resets is None else recurrence.initial
    z, xs = (None, recurrence.xs) if projected else (steps.z, None)
    arrays = Differentiable(recurrence.params, recurrence.state, initial, z, xs)
    masks = (steps.valid, steps.resets, steps.followed)
    # The calls' results vary over every mesh axis that any argument varies over, and gradients likewise.
    leaves, structure = jax.tree.flatten(vary((arrays, masks), varying_axes((arrays, masks))))
    call = _Call(kernel, structure)
    return _forward.bind(*leaves, call=call, keeps=False)


_forward = Primitive("native_forward")
_forward.multiple_results = True


@_forward.def_impl
def _run_forward(*leaves: Any, call: _Call, keeps: bool) -> list[Array]:
    """Returns the outputs, and what the kernel keeps."""
    outputs, kept = call.kernel.run(*call.trees(leaves), keeps=keeps)
    return [*outputs, *kept]


@_forward.def_abstract_eval
def _types_forward(*leaves: Any, call: _Call, keeps: bool) -> list[Any]:
    return jax.make_jaxpr(lambda *leaves: _run_forward(*leaves, call=call, keeps=keeps))(*leaves).out_avals


def _derivative_of_forward(
    primals: Sequence[Any], tangents: Sequence[Any], *, call: _Call, keeps: bool
) -> tuple[list, list]:
    """Returns the results and their tangents; those of what is kept are zero.

    Only the kernel backward reads what is kept, and its derivative begins at the arrays.
    """
    results = _forward.bind(*primals, call=call, keeps=True)
    count = len(call.kernel.over_time)
    outputs, kept = results[:count], results[count:]
    moving = tuple(type(tangent) is not ad.Zero for tangent in tangents)
    d_leaves = [tangent for tangent, moves in zip(tangents, moving) if moves]
    d_outputs = _tangents.bind(*primals, *kept, *d_leaves, call=call, moving=moving)
    if not keeps:
        return outputs, d_outputs
    return results, [*d_outputs, *(ad.Zero(jax.typeof(array).to_tangent_aval()) for array in kept)]


def _batched_forward(
    leaves: Sequence[Any], axes: Sequence[int | None], *, call: _Call, keeps: bool
) -> tuple[list, list]:
    """Returns the results of several recurrences: of one with a batch axis more, if they share their parameters."""
    places = call.batch_places()
    if any(place is None and axis is not None for place, axis in zip(places, axes)):
        return _one_by_one(functools.partial(_forward.bind, call=call, keeps=keeps), leaves, axes)
    size = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes) if axis is not None)
    folded = [
        leaf if place is None else _with_axis(leaf, axis, place, size)
        for leaf, axis, place in zip(leaves, axes, places)
    ]
    results = _forward.bind(*folded, call=call, keeps=keeps)
    # What is kept has an axis of time in front, as some of the outputs have.
    outputs = [int(is_over_time) for is_over_time in call.kernel.over_time]
    return results, [*outputs, *[1] * (len(results) - len(outputs))]


def _with_axis(leaf: Array, axis: int | None, place: int, size: int) -> Array:
    """Returns an array with its mapped axis in a place, or repeated along a new axis if it has none."""
    if axis is not None:
        return jnp.moveaxis(leaf, axis, place)
    return jnp.broadcast_to(jnp.expand_dims(leaf, place), (*leaf.shape[:place], size, *leaf.shape[place:]))


def _one_by_one(
    run: Callable[..., list[Array]], leaves: Sequence[Any], axes: Sequence[int | None]
) -> tuple[list, list]:
    """Returns the results of a function for each entry of the mapped axes, in a loop, and the axes of the results."""
    mapped = [jnp.moveaxis(leaf, axis, 0) for leaf, axis in zip(leaves, axes) if axis is not None]

    def entry(entries: list[Array]) -> list[Array]:
        rest = iter(entries)
        return run(*(leaf if axis is None else next(rest) for leaf, axis in zip(leaves, axes)))

    results = jax.lax.map(entry, mapped)
    return results, [0] * len(results)


# The tangents of the outputs. Its operands are the leaves, what was kept, and the tangents of
# those leaves that are `moving`.
_tangents = Primitive("native_tangents")
_tangents.multiple_results = True


@_tangents.def_impl
def _run_tangents(*values: Any, call: _Call, moving: tuple[bool, ...]) -> list[Array]:
    leaves, d_leaves = values[: len(moving)], values[len(values) - sum(moving) :]

    def outputs(*moved: Array) -> list[Array]:
        rest = iter(moved)
        arrays, masks = call.trees([next(rest) if moves else leaf for leaf, moves in zip(leaves, moving)])
        return call.kernel.reference(arrays, masks)

    moved = tuple(leaf for leaf, moves in zip(leaves, moving) if moves)
    return jax.jvp(outputs, moved, tuple(d_leaves))[1]


@_tangents.def_abstract_eval
def _types_of_tangents(*values: Any, call: _Call, moving: tuple[bool, ...]) -> list[Any]:
    return _types_forward(*values[: len(moving)], call=call, keeps=False)


def _derivative_of_tangents(
    primals: Sequence[Any], tangents: Sequence[Any], *, call: _Call, moving: tuple[bool, ...]
) -> tuple[list, list]:
    run = functools.partial(_tangents.bind, call=call, moving=moving)
    before = len(primals) - sum(moving)
    if all(type(tangent) is ad.Zero for tangent in tangents[:before]):
        return run(*primals), run(*primals[:before], *map(ad.instantiate_zeros, tangents[before:]))
    by_reference = functools.partial(_run_tangents, call=call, moving=moving)
    return run(*primals), jax.jvp(by_reference, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))[1]


def _transposed_tangents(d_outputs: Sequence[Any], *values: Any, call: _Call, moving: tuple[bool, ...]) -> list[Any]:
    """Returns the gradients of the moving leaves, by the kernel."""
    before = len(values) - sum(moving)
    arrays, masks = call.trees(values)
    kept = tuple(values[len(moving) : before])
    moving_arrays, _ = call.trees(moving)
    wants_x = any(jax.tree.leaves((moving_arrays.z, moving_arrays.xs)))
    gradients = _backward(call, wants_x, arrays, masks, kept, list(map(ad.instantiate_zeros, d_outputs)))
    found = [gradient for gradient, moves in zip(jax.tree.leaves(gradients), moving) if moves]
    wanted = map(ad.is_undefined_primal, values[before:])
    return [None] * before + [gradient if is_wanted else None for gradient, is_wanted in zip(found, wanted)]


def _batched_tangents(
    values: Sequence[Any], axes: Sequence[int | None], *, call: _Call, moving: tuple[bool, ...]
) -> tuple[list, list]:
    results = jax.vmap(functools.partial(_run_tangents, call=call, moving=moving), tuple(axes))(*values)
    return results, [0] * len(results)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _backward(
    call: _Call, wants_x: bool, arrays: Differentiable, masks: Masks, kept: tuple[Array, ...], d_outputs: list[Array]
) -> Differentiable:
    """Returns the gradients of the arrays."""
    return call.kernel.gradients(arrays, masks, list(kept), d_outputs, wants_x=wants_x)


@_backward.defjvp
def _(call: _Call, wants_x: bool, primals: Any, tangents: Any) -> tuple[Differentiable, Differentiable]:
    arrays, masks, _, d_outputs = primals

    def gradients(arrays: Differentiable, d_outputs: list[Array]) -> Differentiable:
        return jax.vjp(lambda arrays: call.kernel.reference(arrays, masks), arrays)[1](d_outputs)[0]

    changes = jax.jvp(gradients, (arrays, d_outputs), (tangents[0], tangents[3]))[1]
    return _backward(call, wants_x, *primals), changes


ad.primitive_jvps[_forward] = _derivative_of_forward
ad.primitive_jvps[_tangents] = _derivative_of_tangents
ad.primitive_transposes[_tangents] = _transposed_tangents
batching.primitive_batchers[_forward] = _batched_forward
batching.primitive_batchers[_tangents] = _batched_tangents
mlir.register_lowering(_forward, mlir.lower_fun(_run_forward))
mlir.register_lowering(_tangents, mlir.lower_fun(_run_tangents))
