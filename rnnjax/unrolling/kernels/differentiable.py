"""A recurrence by its two kernels, as a function that JAX can differentiate.

Products are accumulated in float32; float32 operands are multiplied in TensorFloat-32, as XLA does by default.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from rnnjax.cells.cell import Params, State
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.unrolling.kernels import persistent
from rnnjax.unrolling.kernels.instructions import in_instructions
from rnnjax.unrolling.kernels.layout import layouts_of, sizes_of
from rnnjax.unrolling.kernels.persistent import Kernels, Operands
from rnnjax.unrolling.kernels.traced_gates import by_unit, gates_of
from rnnjax.unrolling.kernels.turns import in_turn
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.varying import vary, varying_axes


class Differentiable(NamedTuple):
    """The parts of a recurrence that have gradients."""

    params: Params
    state: State
    initial: State | None
    z: Any


def run(recurrence: Recurrence, *, interpret: bool = False) -> tuple[Float[Array, "T *B H"], State]:
    """Returns the outputs and the state after the last step of a recurrence for which `Pallas.why_not` returned None.

    `jax.grad` uses the backward kernel; derivatives of gradients are computed by `Scan`. Forward mode (`jax.jvp`,
    `jax.linearize`) is not supported.

    Args:
      recurrence: the recurrence.
      interpret: whether to run in JAX's interpreter of GPU kernels, on a CPU.
    """
    cell: Any = recurrence.cell
    steps = recurrence.steps
    initial = None if steps.resets is None else recurrence.initial
    arrays = Differentiable(recurrence.params, recurrence.state, initial, steps.z)
    masks = (steps.valid, steps.resets, steps.followed)
    # A kernel's results vary over every mesh axis that any argument varies over, and its gradients likewise.
    arrays, masks = vary((arrays, masks), varying_axes((arrays, masks)))
    return _with_derivatives(cell, _kernels(cell, recurrence, interpret))(arrays, masks)


def _kernels(cell: GatedCell, recurrence: Recurrence, interpret: bool) -> Kernels:
    """Returns what the two kernels of a recurrence are built from."""
    gates = in_instructions(gates_of(recurrence))
    structure = jax.tree.structure(recurrence.state)
    # A state of numbers: its h is where the hidden state is among the leaves.
    positions = structure.unflatten(range(structure.num_leaves))
    forward, backward = layouts_of(cell, recurrence, split=not interpret)
    assert forward is not None
    assert backward is not None
    return Kernels(gates, positions.h, sizes_of(cell, recurrence).dtype, forward, backward, interpret)


def _with_derivatives(cell: GatedCell, kernels: Kernels) -> Any:
    """Returns the recurrence as a function of its arrays and its masks, whose derivative is the backward kernel.

    Neither kernel can be differentiated itself: for a gradient of a gradient, `Scan` takes its place.
    """

    def scanned(arrays: Differentiable, masks: Any) -> tuple[Array, State]:
        return Scan().run(Recurrence(cell, arrays.params, arrays.state, arrays.initial, Steps(arrays.z, *masks)))

    @jax.custom_jvp
    def forward(after, arrays, masks):
        operands = _operands(cell, kernels, arrays, masks)
        # ys [T, B, H], last_leaves [B, H] each, with all batch axes as one.
        ys, last_leaves, starts, done = persistent.forward(kernels, operands, after)
        first_leaves, structure = jax.tree.flatten(arrays.state)
        last_leaves = [last.reshape(first.shape) for last, first in zip(last_leaves, first_leaves)]
        return ((ys.reshape(-1, *arrays.state.h.shape), structure.unflatten(last_leaves)), starts), done

    @forward.defjvp
    def _(primals, tangents):
        _, arrays, masks = primals
        (outputs, starts), done = forward(*primals)
        # The tangents of `starts` may be zeros: only `backward` reads them, and its derivative begins at the arrays.
        d_outputs = jax.jvp(lambda arrays: scanned(arrays, masks), (arrays,), (tangents[1],))[1]
        return ((outputs, starts), done), ((d_outputs, jax.tree.map(jnp.zeros_like, starts)), _no_tangent(done))

    @jax.custom_jvp
    def backward(after, arrays, masks, starts, d_outputs):
        # The masks, which have no gradient, are added after `jax.vjp`.
        operands, pull = jax.vjp(lambda arrays: _operands(cell, kernels, arrays, _NO_MASKS), arrays)
        valid, resets, followed = (_flat(mask, 1, arrays) for mask in masks)
        operands = operands._replace(valid=valid, resets=resets, followed=followed)
        d_ys, d_state = d_outputs
        d_state = [leaf.reshape(-1, kernels.forward.hidden) for leaf in jax.tree.leaves(d_state)]
        # `pull` takes the gradients in the kernels' form back through reshapes, broadcasts and casts.
        d_operands, done = persistent.backward(kernels, operands, starts, _flat(d_ys, 1, arrays), d_state, after)
        return pull(Operands(*d_operands, *_NO_MASKS))[0], done

    @backward.defjvp
    def _(primals, tangents):
        _, arrays, masks, _, d_outputs = primals
        _, d_arrays, _, _, dd_outputs = tangents

        # `starts` are not among the arguments: `Scan` makes them again, from the arrays.
        def gradients(arrays, d_outputs):
            return jax.vjp(lambda arrays: scanned(arrays, masks), arrays)[1](d_outputs)[0]

        d_gradients = jax.jvp(gradients, (arrays, d_outputs), (d_arrays, dd_outputs))[1]
        found, done = backward(*primals)
        return (found, done), (d_gradients, _no_tangent(done))

    @jax.custom_vjp
    def recur(arrays, masks):
        return in_turn(forward, arrays, masks)[0]

    def recur_forward(arrays, masks):
        outputs, starts = in_turn(forward, arrays, masks)
        return outputs, (arrays, masks, starts)

    def recur_backward(residuals, d_outputs):
        return in_turn(backward, *residuals, d_outputs), None  # masks have no gradient

    recur.defvjp(recur_forward, recur_backward)
    return recur


def _no_tangent(done: Int32[Array, "1"]) -> Any:
    """Returns the tangent of whole numbers."""
    return np.zeros(done.shape, jax.dtypes.float0)


Masks = tuple[Bool[Array, "T *B"] | None, ...]
_NO_MASKS: Masks = (None, None, None)


def _operands(cell: GatedCell, kernels: Kernels, arrays: Differentiable, masks: Masks) -> Operands:
    """Returns a recurrence in the form that the kernels take."""
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
    """Returns an array with its batch axes joined into one, which comes after `before` other axes."""
    if leaf is None:
        return None
    return leaf.reshape(*leaf.shape[:before], -1, *leaf.shape[before + arrays.state.h.ndim - 1 :])
