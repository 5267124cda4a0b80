"""The kernel of a linear or diagonal cell: its calls, and the form in which it takes a recurrence's arrays."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import Cell, Finished, State
from rnnjax.cells.traits import is_linear
from rnnjax.unrolling.associative import Associative, outputs_of_states
from rnnjax.unrolling.kernels.traced_gates import by_unit
from rnnjax.unrolling.native.kernel import Differentiable, Kernel, Masks, called, flat_masks, rows_of, sizes, z_by_unit
from rnnjax.unrolling.native.unitwise_source import STEPS, UnitwisePlan, projection
from rnnjax.unrolling.recurrence import Method, Recurrence, Steps
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.varying import vary, varying_axes


class _Operands(NamedTuple):
    """The arrays that a kernel takes, all batch axes as one; what it does not need has no entries.

    Attributes:
      x: the inputs ``[T, B, I]``, or z ``[T, B, n, H]``.
      w_x, bias: what the inputs are projected by, ``[I, n, H]`` and ``[n, H]``.
      w_y, scale: what the states and the inputs are multiplied by for the outputs, ``[leaves, H, O]`` and ``[O]``.
      params: the parameters that the coefficients read, ``[n, H]``.
      start, initial: leaves ``[B, H]`` of the first state and of the one that resets go to.
    """

    x: Array
    w_x: Array
    bias: Array
    w_y: Array
    scale: Array
    params: Array
    start: list[Array]
    initial: list[Array]


@dataclasses.dataclass(frozen=True, eq=False)
class UnitwiseKernel(Kernel):
    """A compiled kernel of a linear or diagonal cell.

    Its outputs are the leaves of all states, or y where it computes it, then the leaves of the last state.
    """

    plan: UnitwisePlan

    @property
    def over_time(self) -> tuple[bool, ...]:
        return (*[True] * (1 if self.plan.outputs else self.plan.leaves), *[False] * self.plan.leaves)

    def run(self, arrays: Differentiable, masks: Masks, *, keeps: bool) -> tuple[list[Array], list[Array]]:
        leaves = jax.tree.leaves(arrays.state)
        states, last, y = _call_forward(self, _operands(self, arrays), flat_masks(arrays, masks))
        states = [leaf.reshape(-1, *like.shape) for leaf, like in zip(states, leaves)]
        last = [leaf.reshape(like.shape) for leaf, like in zip(last, leaves)]
        ys = [y.reshape(-1, *leaves[0].shape[:-1], self.plan.outputs)] if self.plan.outputs else states
        return [*ys, *last], states if keeps else []

    def gradients(
        self, arrays: Differentiable, masks: Masks, kept: list[Array], d_outputs: list[Array], *, wants_x: bool
    ) -> Differentiable:
        plan = self.plan
        operands, pull = jax.vjp(lambda arrays: _operands(self, arrays), arrays)
        length, (batch, hidden) = operands.x.shape[0], operands.start[0].shape
        empty = operands.x[:0]
        over_time = [leaf.reshape(length, batch, -1) for leaf in d_outputs[: -plan.leaves]]
        d_states, d_y = ([empty] * plan.leaves, over_time[0]) if plan.outputs else (over_time, empty)
        d_last = [leaf.reshape(batch, hidden) for leaf in d_outputs[-plan.leaves :]]
        states = [leaf.reshape(-1, batch, hidden) for leaf in kept]
        flags, changes = flat_masks(arrays, masks), [*d_states, d_y, *d_last]
        return pull(_call_backward(self, operands, flags, states, changes, wants_x=wants_x))[0]

    def reference(self, arrays: Differentiable, masks: Masks) -> list[Array]:
        cell = self.cell
        z = cell.inputs(arrays.params, arrays.xs) if self.plan.projected else arrays.z
        recurrence = Recurrence(cell, arrays.params, arrays.state, arrays.initial, Steps(z, *masks), arrays.xs)
        (_, states), last = reference_method(cell).run(recurrence._replace(keeps_states=True))
        states, last = jax.tree.leaves(states), jax.tree.leaves(last)
        if not self.plan.outputs:
            return [*states, *last]
        w_y, scale = cell.affine_outputs(arrays.params)
        added = jnp.zeros((), jnp.float32) if scale is None else scale * arrays.xs
        return [sum((leaf @ w for leaf, w in zip(states, w_y)), added), *last]


def outputs_of(recurrence: Recurrence, plan: UnitwisePlan, found: list[Array]) -> tuple[Array | Finished, State]:
    """Returns what `Method.run` does from the outputs of such a kernel."""
    structure = jax.tree.structure(recurrence.state)
    last = structure.unflatten(found[-plan.leaves :])
    if plan.outputs:
        return Finished(found[0]), last
    return outputs_of_states(recurrence, structure.unflatten(found[: plan.leaves])), last


def reference_method(cell: Cell) -> Method:
    """Returns a method that returns all states, and that JAX can differentiate in every way."""
    return Associative("scan") if is_linear(cell) else Scan()


def _operands(kernel: UnitwiseKernel, arrays: Differentiable) -> _Operands:
    """Returns a recurrence's arrays in the form that the kernel takes."""
    cell, plan = kernel.cell, kernel.plan
    empty = jnp.zeros(0, jnp.float32)
    params = [by_unit(leaf, plan.hidden) for leaf in _read(arrays.params, plan.reads_params)]
    w_x = bias = None
    if plan.projected:
        w_x, bias = projection(cell, arrays.params, arrays.xs)  # pyright: ignore[reportGeneralTypeIssues]
        x = arrays.xs.reshape(arrays.xs.shape[0], -1, arrays.xs.shape[-1])  # pyright: ignore[reportOptionalMemberAccess]
    else:
        batch_axes = jax.tree.leaves(arrays.state)[0].ndim - 1
        x = z_by_unit(_read(arrays.z, plan.reads_z), batch_axes, plan.hidden)
    w_y, scale = cell.affine_outputs(arrays.params) if plan.outputs else (None, None)
    operands = _Operands(
        x,
        empty if w_x is None else w_x,
        empty if bias is None else bias,
        empty if w_y is None else w_y,
        empty if scale is None else scale,
        jnp.concatenate(params) if params else empty,
        rows_of(arrays.state),
        [empty] * plan.leaves if arrays.initial is None else rows_of(arrays.initial),
    )
    return vary(operands, varying_axes(arrays))


def _read(tree: Any, reads: tuple[bool, ...]) -> list[Array]:
    return [leaf for leaf, is_read in zip(jax.tree.leaves(tree), reads) if is_read]


def _call_forward(
    kernel: UnitwiseKernel, operands: _Operands, masks: list[Array]
) -> tuple[list[Array], list[Array], Array]:
    """Returns the leaves of the states after all steps ``[T, B, H]``, of the last ``[B, H]``, and y ``[T, B, O]``.

    Where the kernel computes y, the states are those before every `STEPS` steps, ``[ceil(T / STEPS), B, H]``.
    """
    plan = kernel.plan
    arguments = [*operands[:6], *masks, *operands.start, *operands.initial]
    length, last = operands.x.shape[0], operands.start[0].shape
    y = (length, last[0], plan.outputs) if plan.outputs else (0,)
    states = (-(-length // STEPS) if plan.outputs else length, *last)
    shapes = [*[states] * plan.leaves, *[last] * plan.leaves, y]
    found = called(kernel.forward, arguments, shapes, sizes(operands, O=plan.outputs))
    return found[: plan.leaves], found[plan.leaves : -1], found[-1]


def _call_backward(
    kernel: UnitwiseKernel,
    operands: _Operands,
    masks: list[Array],
    states: list[Array],
    changes: list[Array],
    *,
    wants_x: bool,
) -> _Operands:
    """Returns the gradients of the operands.

    Args:
      kernel: the kernel.
      operands: what the call forward took.
      masks: likewise.
      states: the states that it returned.
      changes: the gradients of what it returned.
      wants_x: whether that of the inputs is wanted; otherwise it is returned as zeros.
    """
    plan = kernel.plan
    arguments = [*operands[:6], *masks, *operands.start, *operands.initial, *states, *changes]
    # z is not projected: its gradient is where the kernel works.
    wants_x = wants_x or not plan.projected
    x = operands.x.shape if wants_x else (0,)
    shapes = [x, *(leaf.shape for leaf in (*operands[1:6], *operands.start, *operands.initial))]
    found = called(kernel.backward, arguments, shapes, sizes(operands, O=plan.outputs))
    d_x, d_w_x, d_bias, d_w_y, d_scale, d_params, *d_states = found
    d_x = d_x if wants_x else jnp.zeros_like(operands.x)
    d_start, d_initial = d_states[: plan.leaves], d_states[plan.leaves :]
    return _Operands(d_x, d_w_x, d_bias, d_w_y, d_scale, d_params, d_start, d_initial)
