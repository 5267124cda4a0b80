"""Unrolling of gated cells with a derivative of their own, whose products wait until the loop is over."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import GatedCell, Params, State, check_size, compute_dtype, recurrent_product
from rnnjax.unrolling.recurrence import Recurrence, select
from rnnjax.unrolling.scan import Scan


@dataclasses.dataclass(frozen=True)
class Fused:
    """The recurrence of a gated cell as a whole, with its own derivative: faster to train than `Scan`.

    The loop forward keeps the states and the recurrent products; the loop backward takes gradients of the pointwise
    `gates`, which it evaluates again, and one product a step. The gradient of the recurrent weight is one product of
    all steps after that loop, and that of the gates' own parameters one pass over all steps. Gradients of any order,
    forward and reverse, `jax.vmap`, `jax.checkpoint` and `jax.shard_map` apply as to `Scan`, which is what takes a cell
    that is not a `GatedCell`, or that has a `step` of its own.

    Attributes:
      unroll: copies of the step in the loops' bodies.

    Raises:
      ValueError: for a number below 1.
    """

    unroll: int = 1

    def __post_init__(self):
        check_size("unroll", self.unroll)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        cell = recurrence.cell
        if not fuses(cell):
            return Scan(self.unroll).run(recurrence)
        weight = cell.recurrent_weight(recurrence.params)
        return _run(cell, self.unroll, weight, recurrence._replace(cell=None))


def fuses(cell: Any) -> bool:
    """Returns whether a cell's step is what `GatedCell` makes of its `gates` and `recurrent_weight`."""
    return isinstance(cell, GatedCell) and type(cell).step is GatedCell.step


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _run(cell: GatedCell, unroll: int, weight: Float[Array, "O G H"], recurrence: Recurrence) -> tuple[Array, State]:
    ys, state, _ = _trajectory(cell, unroll, weight, recurrence)
    return ys, state


def _trajectory(cell: GatedCell, unroll: int, weight: Array, recurrence: Recurrence) -> tuple[Array, State, Any]:
    """Returns the outputs, the final state, and for every step the state before it and its product.

    What a step reads of the inputs was fetched in the step before: XLA's CPU compiler would otherwise look up each
    gate in the whole sequence again for every unit, which takes longer than the gates themselves.
    """
    params, steps = recurrence.params, recurrence.steps
    dtype = compute_dtype(steps.z)

    def step(carry, item):
        (state, z), (z_after, valid, resets) = carry, item
        before = state if resets is None else select(resets, recurrence.initial, state)
        r = recurrent_product(before.h, weight, dtype)
        new = _gates(cell, params, before, z, r)
        after = new if valid is None else select(valid, new, state)
        return (after, z_after), (new.h.astype(dtype), before, r)

    z_first = jax.tree.map(lambda leaf: leaf[0], steps.z)
    coming = steps._replace(z=jax.tree.map(lambda leaf: jnp.roll(leaf, -1, 0), steps.z))
    (state, _), (ys, befores, rs) = jax.lax.scan(step, (recurrence.state, z_first), coming, unroll=unroll)
    return ys, state, (befores, rs)


@_run.defjvp
def _derivative(cell: GatedCell, unroll: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (weight, recurrence), (d_weight, d_recurrence) = primals, tangents
    ys, state, (befores, rs) = _trajectory(cell, unroll, weight, recurrence)
    params, steps, dtype = recurrence.params, recurrence.steps, compute_dtype(recurrence.steps.z)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def d_gates(*at_and_d):
        at, d = at_and_d[:3], at_and_d[3:]
        return jax.jvp(functools.partial(_gates, cell, params), at, d)[1]

    def step(d_state, item):
        before, z, r, d_z, d_r, d_own, valid, resets = item
        d_before = d_state if resets is None else select(resets, d_recurrence.initial, d_state)
        d_r = d_r + recurrent_product(d_before.h, weight, dtype)
        d_z = jax.tree.map(jnp.zeros_like, z) if d_z is None else d_z
        d_new = d_gates(before, z, r, d_before, d_z, d_r)
        d_new = d_new if d_own is None else jax.tree.map(jnp.add, d_new, d_own)
        d_after = d_new if valid is None else select(valid, d_new, d_state)
        return d_after, d_new.h.astype(dtype)

    rows = befores.h.reshape(-1, befores.h.shape[-1])
    d_rs = recurrent_product(rows, d_weight, dtype).reshape(rs.shape)
    d_zs = d_recurrence.steps.z
    reads = _Reads.of(cell, params, jax.tree.map(lambda leaf: leaf[0], (befores, steps.z, rs)))
    if reads.sum_only:
        d_zs, d_rs = None, d_zs + d_rs
    d_own = _own_parameters(cell, params, d_recurrence.params, befores, steps.z, rs) if reads.params else None
    items = (befores, steps.z, rs, d_zs, d_rs, d_own, steps.valid, steps.resets)
    d_state, d_ys = jax.lax.scan(step, d_recurrence.state, items, unroll=unroll)
    return (ys, state), (d_ys, d_state)


class _Reads(NamedTuple):
    """What a cell's gates read: any of the parameters, and of ``z`` and ``r`` nothing but their sum."""

    params: bool
    sum_only: bool

    @classmethod
    def of(cls, cell: GatedCell, params: Params, step: tuple[State, Any, Array]) -> _Reads:
        jaxpr = jax.make_jaxpr(functools.partial(_gates, cell))(params, *step).jaxpr
        own, before = len(jax.tree.leaves(params)), len(jax.tree.leaves(step[0]))

        def readers(variables):
            return [e for e in jaxpr.eqns if any(v is given for v in e.invars for given in variables)]

        of_inputs = readers(jaxpr.invars[own + before :])
        one_sum = len(of_inputs) == 1 and of_inputs[0].primitive.name == "add" and len(jax.tree.leaves(step[1])) == 1
        returned = any(v is given for v in jaxpr.outvars for given in jaxpr.invars)
        return cls(bool(readers(jaxpr.invars[:own])), one_sum and not returned)


def _own_parameters(cell: GatedCell, params: Params, d_params: Params, befores: State, zs: Any, rs: Array) -> State:
    """Returns what the parameters that the gates read themselves change in the new state of every step."""

    def gates(params):
        return jax.vmap(functools.partial(_gates, cell, params))(befores, zs, rs)

    return jax.checkpoint(lambda params, d_params: jax.jvp(gates, (params,), (d_params,))[1])(params, d_params)


def _gates(cell: GatedCell, params: Params, before: State, z: Any, r: Array) -> State:
    """Returns the cell's new state in the types of the state before."""
    new = cell.gates(params, before, z, r)
    return jax.tree.map(lambda after, like: after.astype(like.dtype), new, before)
