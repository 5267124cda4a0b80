"""The kernel of a gated cell: its calls, and the form in which it takes the arrays of a recurrence."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.unrolling.fused import Fused
from rnnjax.unrolling.kernels.traced_gates import by_unit
from rnnjax.unrolling.native.kernel import Differentiable, Kernel, Masks, called, flat_masks, rows_of, sizes, z_by_unit
from rnnjax.unrolling.native.source import Plan
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.varying import vary, varying_axes


class _Operands(NamedTuple):
    """The arrays that a kernel takes, all batch axes as one; what it does not need has no entries.

    Attributes:
      x: the inputs ``[T, B, I]``, or z ``[T, B, n, H]``.
      w_x, bias: what the inputs are projected by, ``[I, G, H]`` and ``[G, H]``.
      w: the recurrent weight ``[H, G, H]``.
      params: the parameters that the gates read, ``[n, H]``.
      start, initial: leaves ``[B, H]`` of the first state and of the one that resets go to.
    """

    x: Array
    w_x: Array
    bias: Array
    w: Array
    params: Array
    start: list[Array]
    initial: list[Array]


@dataclasses.dataclass(frozen=True, eq=False)
class GatedKernel(Kernel):
    """A compiled kernel of a gated cell."""

    plan: Plan

    @property
    def over_time(self) -> tuple[bool, ...]:
        return (True, *[False] * self.plan.leaves)

    def run(self, arrays: Differentiable, masks: Masks, *, keeps: bool) -> tuple[list[Array], list[Array]]:
        """Returns the outputs and the leaves of the last state, and z, r if it has entries, and all states' leaves."""
        batch = arrays.state.h.shape[:-1]
        found = _call_forward(self, _operands(self, arrays), flat_masks(arrays, masks), keeps=keeps)
        z, r, *states = (array.reshape(array.shape[0], *batch, *array.shape[2:]) for array in found)
        outputs = [states[self.plan.position], *(leaf[-1] for leaf in states)]
        if not keeps:
            return outputs, []
        # JAX 0.11 ends the process where an array without entries is handed on in the gradient of a `jax.shard_map`.
        return outputs, [z, *([r] if self.plan.own_products else []), *states]

    def gradients(
        self, arrays: Differentiable, masks: Masks, kept: list[Array], d_outputs: list[Array], *, wants_x: bool
    ) -> Differentiable:
        operands, pull = jax.vjp(lambda arrays: _operands(self, arrays), arrays)
        rows = operands.start[0].shape
        kept = [array.reshape(array.shape[0], rows[0], *array.shape[arrays.state.h.ndim :]) for array in kept]
        if not self.plan.own_products:
            kept.insert(1, jnp.zeros((kept[0].shape[0], rows[0], 0, rows[1]), jnp.float32))
        d_ys, *d_last = d_outputs
        d_last = [leaf.reshape(rows) for leaf in d_last]
        found = _call_backward(self, operands, flat_masks(arrays, masks), kept, d_ys.reshape(-1, *rows), d_last)
        return pull(found)[0]

    def reference(self, arrays: Differentiable, masks: Masks) -> list[Array]:
        z = self.cell.inputs(arrays.params, arrays.xs) if self.plan.projected else arrays.z
        recurrence = Recurrence(self.cell, arrays.params, arrays.state, arrays.initial, Steps(z, *masks), arrays.xs)
        return jax.tree.leaves(Fused().run(recurrence))


def _operands(kernel: GatedKernel, arrays: Differentiable) -> _Operands:
    """Returns a recurrence's arrays in the form that the kernel takes."""
    cell, plan = kernel.cell, kernel.plan
    empty = jnp.zeros(0, jnp.float32)
    read = [leaf for leaf, is_read in zip(jax.tree.leaves(arrays.params), plan.reads_params) if is_read]
    params = [by_unit(leaf, plan.hidden) for leaf in read]
    if plan.projected:
        w_x = arrays.params.w_x
        # What `inputs` adds to a projected input of zero.
        bias = cell.gate_inputs(arrays.params, jnp.zeros((1, *w_x.shape[1:]), jnp.float32))[0]
        x = arrays.xs.reshape(arrays.xs.shape[0], -1, arrays.xs.shape[-1])  # pyright: ignore[reportOptionalMemberAccess]
    else:
        w_x = bias = empty
        x = z_by_unit(jax.tree.leaves(arrays.z), arrays.state.h.ndim - 1, plan.hidden)
    operands = _Operands(
        x,
        w_x,
        bias,
        cell.recurrent_weight(arrays.params),
        jnp.concatenate(params) if params else empty,
        rows_of(arrays.state),
        [empty] * plan.leaves if arrays.initial is None else rows_of(arrays.initial),
    )
    return vary(operands, varying_axes(arrays))


def _call_forward(kernel: GatedKernel, operands: _Operands, masks: list[Array], *, keeps: bool) -> list[Array]:
    """Returns z, r and the leaves of the states after all steps, each ``[T, B, ...]``.

    Unless it `keeps` them, z and r of all steps have one place, ``[1, B, ...]``; z that is given is replaced.
    """
    plan = kernel.plan
    arguments = [*operands[:5], *masks, *operands.start, *operands.initial]
    T, (B, H) = operands.x.shape[0], operands.start[0].shape
    r_steps = T if keeps else 1
    z_steps = r_steps if plan.projected else T
    shapes = [(z_steps, B, plan.entries, H), (r_steps, B, plan.own_products, H), *[(T, B, H)] * plan.leaves]
    replaced = {} if plan.projected else {0: 0}  # z, where it is given
    return called(kernel.forward, arguments, shapes, sizes(operands), replaced)


def _call_backward(
    kernel: GatedKernel, operands: _Operands, masks: list[Array], kept: Any, d_ys: Array, d_last: list[Array]
) -> _Operands:
    """Returns the gradients of the operands.

    Args:
      kernel: the kernel.
      operands: what the call forward took.
      masks: likewise.
      kept: what it returned.
      d_ys: the gradient of the outputs ``[T, B, H]``.
      d_last: the gradients of the leaves of the last state.
    """
    plan, (z, r, *states) = kernel.plan, kept
    # z was replaced by what is kept: it is not needed again.
    x = operands.x if plan.projected else jnp.zeros(0, jnp.float32)
    own = [x, *operands[1:5], *masks, *operands.start, *operands.initial]
    arguments = [z, r, *own, *states, d_ys, *d_last]
    shapes = [result.shape for result in (z, r, *operands[1:5], *operands.start, *operands.initial)]
    found = called(kernel.backward, arguments, shapes, sizes(operands), {0: 0, 1: 1})
    d_z, _, d_w_x, d_bias, d_w, d_params, *d_states = found
    d_x = jnp.tensordot(d_z, operands.w_x, ((2, 3), (1, 2))) if plan.projected else d_z
    return _Operands(d_x, d_w_x, d_bias, d_w, d_params, d_states[: plan.leaves], d_states[plan.leaves :])
