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
from rnnjax.unrolling.kernels.persistent import Given, Kernels
from rnnjax.unrolling.kernels.traced_gates import by_unit, traced
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.varying import vary, varying_axes


class Live(NamedTuple):
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
    parts = Live(recurrence.params, recurrence.state, initial, steps.z), (steps.valid, steps.resets)
    return _with_derivatives(cell, kernels)(*vary(parts, varying_axes(parts)))


def _kernels(cell: GatedCell, recurrence: Recurrence, interpret: bool) -> Kernels:
    state, z, sizes = recurrence.state, recurrence.steps.z, sizes_of(cell, recurrence)

    def one(tree: Any, axes: int) -> Any:
        """Returns shapes and types without the first axes, time and batch."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)

    r, axes = jax.ShapeDtypeStruct((sizes.gates, sizes.hidden), state.h.dtype), state.h.ndim - 1
    gates = traced(cell, recurrence.params, one(state, axes), one(z, axes + 1), r)
    places = jax.tree.structure(state)
    hidden = places.unflatten(range(places.num_leaves)).h
    ahead, back = layouts_of(cell, recurrence, split=not interpret)
    assert ahead is not None
    assert back is not None
    return Kernels(gates, hidden, sizes.dtype, ahead, back, interpret)


def _with_derivatives(cell: GatedCell, kernels: Kernels) -> Any:
    """Returns the recurrence as a function of its `Live` parts and its masks, its derivative the second kernel.

    Neither kernel is differentiated: where that is asked for, as in a gradient of a gradient, `Scan` takes its place.
    """

    def scanned(live: Live, masks: Any) -> tuple[Array, State]:
        return Scan().run(Recurrence(cell, live.params, live.state, live.initial, Steps(live.z, *masks)))

    @jax.custom_jvp
    def forward(live, masks):
        ys, state, saved = persistent.forward(kernels, _given(cell, kernels, live, masks))
        old, structure = jax.tree.flatten(live.state)
        state = structure.unflatten([leaf.reshape(like.shape) for leaf, like in zip(state, old)])
        return (ys.reshape(-1, *live.state.h.shape), state), saved

    @forward.defjvp
    def _(primals, tangents):
        outputs, saved = forward(*primals)
        d_outputs = jax.jvp(lambda live: scanned(live, primals[1]), primals[:1], tangents[:1])[1]
        return (outputs, saved), (d_outputs, jax.tree.map(jnp.zeros_like, saved))

    @jax.custom_jvp
    def backward(live, masks, saved, d_outputs):
        given, pull = jax.vjp(lambda live: _given(cell, kernels, live, (None, None)), live)
        given = given._replace(**dict(zip(("valid", "resets"), (_flat(mask, 1, live) for mask in masks))))
        (d_ys, d_state), size = d_outputs, kernels.forward.hidden
        d_state = [leaf.reshape(-1, size) for leaf in jax.tree.leaves(d_state)]
        d_given = persistent.backward(kernels, given, saved, _flat(d_ys, 1, live), d_state)
        return pull(Given(*d_given, valid=None, resets=None))[0]

    @backward.defjvp
    def _(primals, tangents):
        live, masks, _, d_outputs = primals
        pull = lambda live, d_outputs: jax.vjp(lambda live: scanned(live, masks), live)[1](d_outputs)[0]  # noqa: E731
        return backward(*primals), jax.jvp(pull, (live, d_outputs), (tangents[0], tangents[3]))[1]

    @jax.custom_vjp
    def recur(live, masks):
        return forward(live, masks)[0]

    def ahead(live, masks):
        outputs, saved = forward(live, masks)
        return outputs, (live, masks, saved)

    recur.defvjp(ahead, lambda kept, d_outputs: (backward(*kept, d_outputs), None))
    return recur


def _given(cell: GatedCell, kernels: Kernels, live: Live, masks: tuple[Array | None, Array | None]) -> Given:
    """Returns a recurrence as the kernels take it."""
    size, params = kernels.forward.hidden, jax.tree.leaves(live.params)
    return Given(
        cell.recurrent_weight(live.params),
        [by_unit(leaf, size) for leaf, own in zip(params, kernels.gates.own) if own],
        [_flat(leaf, 0, live) for leaf in jax.tree.leaves(live.state)],
        None if live.initial is None else [_flat(leaf, 0, live) for leaf in jax.tree.leaves(live.initial)],
        [by_unit(_flat(leaf, 1, live), size, 2) for leaf in jax.tree.leaves(live.z)],
        *(_flat(mask, 1, live) for mask in masks),
    )


def _flat(leaf: Array | None, before: int, live: Live) -> Any:
    """Returns an array with one batch axis, after `before` others."""
    if leaf is None:
        return None
    return leaf.reshape(*leaf.shape[:before], -1, *leaf.shape[before + live.state.h.ndim - 1 :])
