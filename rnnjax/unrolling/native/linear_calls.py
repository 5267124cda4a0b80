"""A linear cell's recurrence by its compiled kernel, as a function that JAX can differentiate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnnjax.cells.cell import Finished, State
from rnnjax.unrolling.associative import linear_states, read_linear
from rnnjax.unrolling.kernels.traced_gates import by_unit
from rnnjax.unrolling.linear_scan import ScanSettings
from rnnjax.unrolling.native.calls import Differentiable, Masks, alike, flat_masks, like, sizes
from rnnjax.unrolling.native.linear_source import LinearPlan, projection
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.varying import vary, varying_axes

_IN_ORDER = ScanSettings("scan")


class LinearKernel(NamedTuple):
    """A compiled kernel of a linear cell: the names of its calls, and how arrays are handed to them."""

    forward: str
    backward: str
    plan: LinearPlan


class _Operands(NamedTuple):
    """The arrays that a kernel takes, all batch axes as one; what it does not need has no entries.

    Attributes:
      x: the inputs ``[T, B, I]``, or z ``[T, B, n, H]``.
      w_x, bias: what the inputs are projected by, ``[I, n, H]`` and ``[n, H]``.
      w_y: what the states are multiplied by, ``[leaves, H, O]``.
      params: the parameters that the coefficients read, ``[n, H]``.
      start, initial: leaves ``[B, H]`` of the first state and of the one that resets go to.
    """

    x: Array
    w_x: Array
    bias: Array
    w_y: Array
    params: Array
    start: list[Array]
    initial: list[Array]


def run_linear_kernel(
    recurrence: Recurrence, kernel: LinearKernel
) -> tuple[Float[Array, "T *B O"] | Finished, State]:
    """Returns the outputs and the state after the last step of a recurrence for which the kernel was compiled.

    `jax.grad` uses the kernel; derivatives of gradients are computed by `Associative`.
    """
    steps, projected = recurrence.steps, kernel.plan.projected
    initial = None if steps.resets is None else recurrence.initial
    z, xs = (None, recurrence.xs) if projected else (steps.z, None)
    arrays = Differentiable(recurrence.params, recurrence.state, initial, z, xs)
    masks = (steps.valid, steps.resets, steps.followed)
    # The calls' results vary over every mesh axis that any argument varies over, and gradients likewise.
    arrays, masks = vary((arrays, masks), varying_axes((arrays, masks)))
    found, last = _with_derivatives(recurrence.cell, kernel)(arrays, masks)
    if not kernel.plan.outputs:
        return read_linear(_IN_ORDER, recurrence, found), last
    added = recurrence.cell.affine_outputs(recurrence.params, steps.z)[1]  # pyright: ignore[reportAttributeAccessIssue]
    return Finished(found if added is None else found + added), last


def _with_derivatives(cell: Any, kernel: LinearKernel) -> Any:
    """Returns a function of arrays and masks whose derivative is the kernel's.

    It returns all states, or their sum by w_y where the kernel computes it, and the last state.
    """
    plan = kernel.plan

    def in_order(arrays: Differentiable, masks: Masks) -> tuple[Any, State]:
        z = cell.inputs(arrays.params, arrays.xs) if plan.projected else arrays.z
        recurrence = Recurrence(cell, arrays.params, arrays.state, arrays.initial, Steps(z, *masks), arrays.xs)
        states = linear_states(_IN_ORDER, recurrence)
        last = jax.tree.map(lambda leaf: leaf[-1], states)
        if not plan.outputs:
            return states, last
        w_y = cell.affine_outputs(arrays.params, z)[0]
        return sum(leaf @ w for leaf, w in zip(jax.tree.leaves(states), w_y)), last

    # Not differentiated itself: in a gradient of a gradient `in_order` takes its place.
    @jax.custom_jvp
    def forward(arrays, masks):
        leaves, structure = jax.tree.flatten(arrays.state)
        states, last, y = _call_forward(kernel, _operands(cell, kernel, arrays), flat_masks(arrays, masks))
        states = structure.unflatten(leaf.reshape(-1, *like.shape) for leaf, like in zip(states, leaves))
        last = structure.unflatten(leaf.reshape(like.shape) for leaf, like in zip(last, leaves))
        y = y.reshape(-1, *leaves[0].shape[:-1], plan.outputs) if plan.outputs else states
        return (y, last), states

    @forward.defjvp
    def _(primals, tangents):
        arrays, masks = primals
        outputs, states = forward(*primals)
        # The tangents of the states may be zeros: only `backward` reads them, whose derivative begins at the arrays.
        d_outputs = jax.jvp(lambda arrays: in_order(arrays, masks), (arrays,), (tangents[0],))[1]
        return (outputs, states), (d_outputs, jax.tree.map(jnp.zeros_like, states))

    @jax.custom_jvp
    def backward(arrays, masks, states, d_outputs):
        operands, pull = jax.vjp(lambda arrays: _operands(cell, kernel, arrays), arrays)
        d_found, d_last = d_outputs
        length, (batch, hidden) = operands.x.shape[0], operands.start[0].shape

        def rows(tree: Any) -> list[Array]:
            return [leaf.reshape(length, batch, hidden) for leaf in jax.tree.leaves(tree)]

        empty = operands.x[:0]
        d_y = d_found.reshape(length, batch, plan.outputs) if plan.outputs else empty
        d_states = [empty] * plan.leaves if plan.outputs else rows(d_found)
        d_last = [leaf.reshape(batch, hidden) for leaf in jax.tree.leaves(d_last)]
        changes = [*d_states, d_y, *d_last]
        return pull(_call_backward(kernel, operands, flat_masks(arrays, masks), rows(states), changes))[0]

    @backward.defjvp
    def _(primals, tangents):
        arrays, masks, _, d_outputs = primals

        def gradients(arrays, d_outputs):
            return jax.vjp(lambda arrays: in_order(arrays, masks), arrays)[1](d_outputs)[0]

        changes = jax.jvp(gradients, (arrays, d_outputs), (tangents[0], tangents[3]))[1]
        return backward(*primals), changes

    @jax.custom_vjp
    def recur(arrays, masks):
        return forward(arrays, masks)[0]

    def recur_forward(arrays, masks):
        outputs, states = forward(arrays, masks)
        return outputs, (arrays, masks, states)

    def recur_backward(residuals, d_outputs):
        return backward(*residuals, d_outputs), None  # masks have no gradient

    recur.defvjp(recur_forward, recur_backward)
    return recur


def _operands(cell: Any, kernel: LinearKernel, arrays: Differentiable) -> _Operands:
    """Returns a recurrence's arrays in the form that the kernel takes."""
    plan, state = kernel.plan, jax.tree.leaves(arrays.state)
    batch_axes = state[0].ndim - 1
    empty = jnp.zeros(0, jnp.float32)
    params = [by_unit(leaf, plan.hidden) for leaf in _read(arrays.params, plan.reads_params)]
    w_x = bias = None
    if plan.projected:
        w_x, bias = projection(cell, arrays.params, arrays.xs)  # pyright: ignore[reportGeneralTypeIssues]
        x = arrays.xs.reshape(arrays.xs.shape[0], -1, arrays.xs.shape[-1])  # pyright: ignore[reportOptionalMemberAccess]
    else:
        leaves = [
            leaf.reshape(leaf.shape[0], -1, *leaf.shape[1 + batch_axes :]) for leaf in _read(arrays.z, plan.reads_z)
        ]
        x = jnp.concatenate([by_unit(leaf, plan.hidden, 2) for leaf in leaves], -2)

    def rows(tree: Any) -> list[Array]:
        return [leaf.reshape(-1, plan.hidden) for leaf in jax.tree.leaves(tree)]

    operands = _Operands(
        x,
        empty if w_x is None else w_x,
        empty if bias is None else bias,
        _output_weight(cell, arrays) if plan.outputs else empty,
        jnp.concatenate(params) if params else empty,
        rows(arrays.state),
        [empty] * plan.leaves if arrays.initial is None else rows(arrays.initial),
    )
    return vary(operands, varying_axes(arrays))


def _output_weight(cell: Any, arrays: Differentiable) -> Float[Array, "n H O"]:
    z = cell.inputs(arrays.params, arrays.xs) if arrays.z is None else arrays.z
    return cell.affine_outputs(arrays.params, z)[0]


def _read(tree: Any, reads: tuple[bool, ...]) -> list[Array]:
    return [leaf for leaf, is_read in zip(jax.tree.leaves(tree), reads) if is_read]


def _call_forward(
    kernel: LinearKernel, operands: _Operands, masks: list[Array]
) -> tuple[list[Array], list[Array], Array]:
    """Returns the leaves of the states after all steps ``[T, B, H]``, of the last ``[B, H]``, and y ``[T, B, O]``."""
    plan = kernel.plan
    arguments = alike([*operands[:5], *masks, *operands.start, *operands.initial])
    length, last = operands.x.shape[0], operands.start[0].shape
    y = (length, last[0], plan.outputs) if plan.outputs else (0,)
    found = _called(kernel.forward, arguments, [*[(length, *last)] * plan.leaves, *[last] * plan.leaves, y], operands)
    return found[: plan.leaves], found[plan.leaves : -1], found[-1]


def _call_backward(
    kernel: LinearKernel, operands: _Operands, masks: list[Array], states: list[Array], changes: list[Array]
) -> _Operands:
    """Returns the gradients of the operands.

    Args:
      kernel: the kernel.
      operands: what the call forward took.
      masks: likewise.
      states: the states after all steps, that it returned.
      changes: the gradients of what it returned.
    """
    plan = kernel.plan
    arguments = alike([*operands[:5], *masks, *operands.start, *operands.initial, *states, *changes])
    z = (*states[0].shape[:2], plan.entries, plan.hidden)
    shapes = [z, *(leaf.shape for leaf in (*operands[1:5], *operands.start, *operands.initial))]
    d_z, d_w_x, d_bias, d_w_y, d_params, *d_states = _called(kernel.backward, arguments, shapes, operands)
    d_x = jnp.tensordot(d_z, operands.w_x, ((2, 3), (1, 2))) if plan.projected else d_z
    return _Operands(d_x, d_w_x, d_bias, d_w_y, d_params, d_states[: plan.leaves], d_states[plan.leaves :])


def _called(name: str, arguments: list[Array], shapes: list[tuple[int, ...]], operands: _Operands) -> list[Array]:
    """Returns the arrays of these shapes that a call of the kernel returns."""
    results = [like(shape, arguments[0]) for shape in shapes]
    call = jax.ffi.ffi_call(name, results, vmap_method="sequential")
    outputs = operands.w_y.shape[-1] if operands.w_y.size else 0
    return list(call(*arguments, **sizes(operands), O=np.int64(outputs)))
