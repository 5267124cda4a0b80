"""The backend "pallas": pointwise gated cells as persistent GPU kernels, with the weight on the chip for all steps.

Products are accumulated in float32; operands in float32 are multiplied as XLA does by default, in TensorFloat-32.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import GatedCell, Params, State, compute_dtype
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.kernels import persistent
from rnnjax.unrolling.kernels.layout import MULTIPROCESSORS, SHARED_MEMORY, Plan, most_units, plan
from rnnjax.unrolling.kernels.persistent import Given, Kernels
from rnnjax.unrolling.kernels.selection import exact_products
from rnnjax.unrolling.kernels.traced_gates import by_unit, one_unit, traced
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.varying import vary, varying_axes

_TYPES = ("float32", "bfloat16", "float16")
_MOST_ENTRIES = 2**31  # of an array with its padding, as kernels index it


def why_not(recurrence: Recurrence, *, interpret: bool = False, platform: str | None = None) -> str | None:
    """Returns a sentence that says why these kernels cannot serve a recurrence, None if they can."""
    cell, name = recurrence.cell, type(recurrence.cell).__name__
    if not interpret and (platform or jax.default_backend()) != "gpu":
        return "the pallas backend runs on a GPU; elsewhere ask for backend='xla', or for interpret=True to test it"
    if not interpret and (unlike := _unlike_an_h100()) is not None:
        return unlike
    if not fuses(cell):
        return f"the pallas backend takes gated cells whose step is GatedCell's, and {name} is not one"
    if not cell.pointwise:
        return f"{name} mixes hidden units in its gates, and the pallas backend splits them; ask for backend='xla'"
    leaves = jax.tree.leaves((recurrence.params, recurrence.state, recurrence.steps.z))
    wrong = next((leaf.dtype for leaf in leaves if leaf.dtype.name not in _TYPES), None)
    if wrong is not None:
        return f"the pallas backend computes in {', '.join(_TYPES)}, got {wrong}"
    if not interpret and compute_dtype(recurrence.steps.z) == jnp.float32 and exact_products():
        return "the pallas backend multiplies float32 in TensorFloat-32, less than was asked for; ask for backend='xla'"
    return _too_large(recurrence, split=not interpret)


def _unlike_an_h100() -> str | None:
    """Returns a sentence about a GPU that the kernels are not for: blocks that wait for each other must all fit it.

    The assembler of CUDA 12 (seen in ptxas 12.8 and 12.9, not in 13.0) takes the results of a product for the zeros it
    starts from where threads exchange them: the outputs would be wrong without a word.
    """
    device: Any = jax.devices()[0]
    if device.platform != "gpu":  # programs made here for a GPU elsewhere
        return None
    cuda = re.search(r"cuda (\d+)\d{3}", device.client.platform_version.lower())
    if cuda is not None and int(cuda[1]) < 13:
        return f"the pallas backend needs CUDA 13, as CUDA {cuda[1]} compiles it to wrong code; ask for backend='xla'"
    capability, multiprocessors = device.compute_capability, device.core_count
    if capability == "9.0" and multiprocessors >= MULTIPROCESSORS:
        return None
    return (
        f"the pallas backend needs a GPU of compute capability 9.0 with {MULTIPROCESSORS} multiprocessors, such as an "
        f"H100, got {device.device_kind} with {capability} and {multiprocessors}; ask for backend='xla'"
    )


def _too_large(recurrence: Recurrence, *, split: bool) -> str | None:
    """Returns a sentence with the limit and the nearest shape within it, None if the recurrence is within."""
    (gates, hidden), batch, dtype = _shape(recurrence)
    plans, length = _plans(recurrence, split=split), recurrence.length
    if None not in plans:
        leaves = [one_unit(leaf, hidden) for leaf in jax.tree.leaves(recurrence.steps.z)]
        padded = max(p.tiles * p.rows * p.width for p in plans if p)
        most = _MOST_ENTRIES // (padded * max(gates, *(leaf.size // (length * batch) for leaf in leaves))) - 1
        too_long = f"the pallas backend indexes with 32 bits, here at most {most} steps at once, got {length}"
        return too_long if length > most else None
    most = min(most_units(gates, parts, dtype.itemsize, batch, split=split) for parts in (1, gates))
    place = f"{MULTIPROCESSORS} blocks of {SHARED_MEMORY // 1024} KiB" if split else f"{SHARED_MEMORY // 1024} KiB"
    return (
        f"the pallas backend holds the recurrent weight of {gates} gates in {place} of shared memory: with a batch of "
        f"{batch} in {dtype} at most {most} hidden units, got {hidden}; make hidden_size or the batch smaller, "
        "or ask for backend='xla'"
    )


def _shape(recurrence: Recurrence) -> tuple[tuple[int, int], int, jnp.dtype]:
    """Returns the numbers of gates and hidden units, that of sequences, and the type of the products."""
    cell: Any = recurrence.cell
    weight, h = jax.eval_shape(cell.recurrent_weight, recurrence.params), recurrence.state.h
    return weight.shape[1:], h.size // h.shape[-1], jnp.dtype(compute_dtype(recurrence.steps.z))


def _plans(recurrence: Recurrence, *, split: bool) -> tuple[Plan | None, Plan | None]:
    """Returns the layouts forward and backward."""
    (gates, hidden), batch, dtype = _shape(recurrence)
    ahead, back = (plan(gates, parts, dtype.itemsize, batch, hidden, split=split) for parts in (1, gates))
    return ahead, back


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
    state, z, (shape, _, dtype) = recurrence.state, recurrence.steps.z, _shape(recurrence)

    def one(tree: Any, axes: int) -> Any:
        """Returns shapes and types without the first axes, time and batch."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)

    r, axes = jax.ShapeDtypeStruct(shape, state.h.dtype), state.h.ndim - 1
    gates = traced(cell, recurrence.params, one(state, axes), one(z, axes + 1), r)
    places = jax.tree.structure(state)
    hidden = places.unflatten(range(places.num_leaves)).h
    ahead, back = _plans(recurrence, split=not interpret)
    assert ahead is not None
    assert back is not None
    return Kernels(gates, hidden, dtype, ahead, back, interpret)


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
