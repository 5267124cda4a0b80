"""A recurrence by its two kernels, as a function that JAX can differentiate.

Products are accumulated in float32; operands in float32 are multiplied as XLA does by default, in TensorFloat-32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import GatedCell, Params, State
from rnnjax.unrolling.kernels import persistent
from rnnjax.unrolling.kernels.layout import layouts_of, sizes_of
from rnnjax.unrolling.kernels.persistent import Kernels, Operands
from rnnjax.unrolling.kernels.traced_gates import by_unit, traced
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.varying import vary, varying_axes


class Differentiable(NamedTuple):
    """The parts of a recurrence that have gradients."""

    params: Params
    state: State
    initial: State | None
    z: Any


def run(recurrence: Recurrence, *, interpret: bool = False) -> tuple[Array, State]:
    """Returns ``ys [T, *batch, H]`` and the state after the last step, where `why_not` has nothing against it.

    Gradients are those of reverse mode, by a kernel; derivatives of the gradients are those of `Scan`. `jax.jvp` and
    `jax.linearize` of the recurrence itself are not to be had.
    """
    cell: Any = recurrence.cell
    steps, kernels = recurrence.steps, _kernels(cell, recurrence, interpret)
    initial = None if steps.resets is None else recurrence.initial
    parts = Differentiable(recurrence.params, recurrence.state, initial, steps.z), (steps.valid, steps.resets)
    return _with_derivatives(cell, kernels)(*vary(parts, varying_axes(parts)))


def _kernels(cell: GatedCell, recurrence: Recurrence, interpret: bool) -> Kernels:
    state, z, sizes = recurrence.state, recurrence.steps.z, sizes_of(cell, recurrence)

    def of_one(tree: Any, axes: int) -> Any:
        """Returns shapes and types without the first axes, time and batch."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)

    r, axes = jax.ShapeDtypeStruct((sizes.gates, sizes.hidden), state.h.dtype), state.h.ndim - 1
    gates = traced(cell, recurrence.params, of_one(state, axes), of_one(z, axes + 1), r)
    places = jax.tree.structure(state)
    hidden = places.unflatten(range(places.num_leaves)).h
    ahead, back = layouts_of(cell, recurrence, split=not interpret)
    assert ahead is not None
    assert back is not None
    return Kernels(gates, hidden, sizes.dtype, ahead, back, interpret)


def _with_derivatives(cell: GatedCell, kernels: Kernels) -> Any:
    """Returns the recurrence as a function of its arrays and its masks, its derivative being the second kernel.

    Neither kernel is differentiated: where that is asked for, as in a gradient of a gradient, `Scan` takes its place.
    """

    def scanned(arrays: Differentiable, masks: Any) -> tuple[Array, State]:
        return Scan().run(Recurrence(cell, arrays.params, arrays.state, arrays.initial, Steps(arrays.z, *masks)))

    @jax.custom_jvp
    def forward(arrays, masks):
        ys, state, starts = persistent.forward(kernels, _operands(cell, kernels, arrays, masks))
        old, structure = jax.tree.flatten(arrays.state)
        state = structure.unflatten([leaf.reshape(like.shape) for leaf, like in zip(state, old)])
        return (ys.reshape(-1, *arrays.state.h.shape), state), starts

    @forward.defjvp
    def _(primals, tangents):
        outputs, starts = forward(*primals)
        d_outputs = jax.jvp(lambda arrays: scanned(arrays, primals[1]), primals[:1], tangents[:1])[1]
        return (outputs, starts), (d_outputs, jax.tree.map(jnp.zeros_like, starts))

    @jax.custom_jvp
    def backward(arrays, masks, starts, d_outputs):
        operands, pull = jax.vjp(lambda arrays: _operands(cell, kernels, arrays, (None, None)), arrays)
        operands = operands._replace(**dict(zip(("valid", "resets"), (_flat(mask, 1, arrays) for mask in masks))))
        (d_ys, d_state), size = d_outputs, kernels.forward.hidden
        d_state = [leaf.reshape(-1, size) for leaf in jax.tree.leaves(d_state)]
        d_operands = persistent.backward(kernels, operands, starts, _flat(d_ys, 1, arrays), d_state)
        return pull(Operands(*d_operands, valid=None, resets=None))[0]

    @backward.defjvp
    def _(primals, tangents):
        arrays, masks, _, d_outputs = primals
        pull = lambda arrays, d_outputs: jax.vjp(lambda arrays: scanned(arrays, masks), arrays)[1](d_outputs)[0]  # noqa: E731
        return backward(*primals), jax.jvp(pull, (arrays, d_outputs), (tangents[0], tangents[3]))[1]

    @jax.custom_vjp
    def recur(arrays, masks):
        return forward(arrays, masks)[0]

    def recur_forward(arrays, masks):
        outputs, starts = forward(arrays, masks)
        return outputs, (arrays, masks, starts)

    recur.defvjp(recur_forward, lambda residuals, d_outputs: (backward(*residuals, d_outputs), None))
    return recur


def _operands(
    cell: GatedCell, kernels: Kernels, arrays: Differentiable, masks: tuple[Array | None, Array | None]
) -> Operands:
    """Returns a recurrence as the kernels take it."""
    size, params = kernels.forward.hidden, jax.tree.leaves(arrays.params)
    return Operands(
        cell.recurrent_weight(arrays.params),
        [by_unit(leaf, size) for leaf, read in zip(params, kernels.gates.reads_params) if read],
        [_flat(leaf, 0, arrays) for leaf in jax.tree.leaves(arrays.state)],
        None if arrays.initial is None else [_flat(leaf, 0, arrays) for leaf in jax.tree.leaves(arrays.initial)],
        [by_unit(_flat(leaf, 1, arrays), size, 2) for leaf in jax.tree.leaves(arrays.z)],
        *(_flat(mask, 1, arrays) for mask in masks),
    )


def _flat(leaf: Array | None, before: int, arrays: Differentiable) -> Any:
    """Returns an array with one batch axis, after `before` others."""
    if leaf is None:
        return None
    return leaf.reshape(*leaf.shape[:before], -1, *leaf.shape[before + arrays.state.h.ndim - 1 :])
