"""Unrolling of gated cells with a derivative of their own, whose largest product waits until the loop is over."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, GatedCell, Params, State, check_size, compute_dtype, recurrent_product, rows
from rnnjax.unrolling.recurrence import Recurrence, select
from rnnjax.unrolling.scan import Scan


@dataclasses.dataclass(frozen=True)
class Fused:
    """The recurrence of a gated cell as a whole, with its own derivative.

    With h_t the state before step t and r_t = h_t W, the loop forward keeps every state and r_t. The loop backward
    evaluates the gates again and takes one product a step, d r_t W^T; then d W = sum_t h_t^T d r_t is one product of
    all steps, as is what the parameters of gates that are not pointwise (a projection) get. The derivative is given in
    forward mode and transposed by JAX, so that `jax.jvp`, `jax.grad` of any order, `jax.vmap`, `jax.checkpoint` and
    `jax.shard_map` apply as they do to `Scan`. A cell that is not a `GatedCell`, or has a `step` of its own, is left to
    `Scan`.

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
        if not isinstance(cell, GatedCell) or not fuses(cell):
            return Scan(self.unroll).run(recurrence)
        return _run(self.unroll, cell, cell.recurrent_weight(recurrence.params), recurrence._replace(cell=None))


def fuses(cell: Cell) -> bool:
    """Returns whether a cell's step is what `GatedCell` makes of its `gates` and `recurrent_weight`."""
    return isinstance(cell, GatedCell) and type(cell).step is GatedCell.step


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _run(unroll: int, cell: GatedCell, weight: Float[Array, "O G H"], given: Recurrence) -> tuple[Array, State]:
    return _forward(unroll, cell, weight, given)[0]


def _forward(unroll: int, cell: GatedCell, weight: Array, given: Recurrence) -> tuple[tuple[Array, State], Any]:
    """Returns the outputs and the final state, and what each step started from: the state and its product.

    With several gates, each step fetches the inputs of the next: XLA's CPU compiler, which would look up every gate of
    every unit in the whole sequence, then reads them from one place.
    """
    dtype, ahead = compute_dtype(given.steps.z), weight.shape[1] > 1

    def step(carry, item):
        (state, z), (fetched, valid, resets) = carry, item
        z, z_after = (z, fetched) if ahead else (fetched, None)
        before = state if resets is None else select(resets, given.initial, state)
        r = recurrent_product(before.h, weight, dtype)
        new = _gates(cell, given.params, before, z, r)
        after = new if valid is None else select(valid, new, state)
        return (after, z_after), (new.h.astype(dtype), before, r)

    first, steps = None, given.steps
    if ahead:
        first = jax.tree.map(lambda z: z[0], steps.z)
        steps = steps._replace(z=jax.tree.map(lambda z: jnp.roll(z, -1, 0), steps.z))
    (state, _), (ys, *saved) = jax.lax.scan(step, (given.state, first), steps, unroll=unroll)
    return (ys, state), saved


@_run.defjvp
def _derivative(unroll: int, cell: GatedCell, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (weight, given), (d_weight, d_given) = primals, tangents
    outputs, (befores, rs) = _forward(unroll, cell, weight, given)
    params, zs, dtype = given.params, given.steps.z, compute_dtype(given.steps.z)
    own, d_own = (params, d_given.params) if cell.pointwise else (None, None)

    # Kept would be more than is read again here: gates are cheaper to evaluate than their derivatives to store.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def d_gates(at, d_at):
        gates = lambda own, *at: _gates(cell, own if cell.pointwise else params, *at)  # noqa: E731
        return jax.jvp(gates, (own, *at), (d_own, *d_at))[1]

    def step(d_state, item):
        (before, z, r), d_z, d_r, d_mixed, valid, resets = item
        d_before = d_state if resets is None else select(resets, d_given.initial, d_state)
        d_r = d_r + recurrent_product(d_before.h, weight, dtype)
        d_new = d_gates((before, z, r), (d_before, jax.tree.map(jnp.zeros_like, z) if d_z is None else d_z, d_r))
        d_new = d_new if d_mixed is None else jax.tree.map(jnp.add, d_new, d_mixed)
        d_after = d_new if valid is None else select(valid, d_new, d_state)
        return d_after, d_new.h.astype(dtype)

    starts = (befores, zs, rs)
    d_zs, d_rs = d_given.steps.z, recurrent_product(rows(befores.h), d_weight, dtype).reshape(rs.shape)
    if _read_as_a_sum(cell, params, jax.tree.map(lambda leaf: leaf[0], starts)):
        d_zs, d_rs = None, sum(jax.tree.leaves(d_zs), d_rs)  # one gradient for both
    d_mixed = None if cell.pointwise else _by_parameters(cell, params, d_given.params, starts)
    items = (starts, d_zs, d_rs, d_mixed, given.steps.valid, given.steps.resets)
    d_state, d_ys = jax.lax.scan(step, d_given.state, items, unroll=unroll)
    return outputs, (d_ys, d_state)


def _by_parameters(cell: GatedCell, params: Params, d_params: Params, starts: tuple[State, Any, Array]) -> State:
    """Returns what a change of the parameters that the gates read changes in the new state of every step."""

    def gates(params):
        return jax.vmap(functools.partial(_gates, cell, params))(*starts)

    return jax.checkpoint(lambda params, d_params: jax.jvp(gates, (params,), (d_params,))[1])(params, d_params)


def _read_as_a_sum(cell: GatedCell, params: Params, start: tuple[State, Any, Array]) -> bool:
    """Returns whether gates read ``z`` and ``r`` in ``z + r`` only, as those of most cells do."""
    jaxpr = jax.make_jaxpr(functools.partial(_gates, cell))(params, *start).jaxpr
    inputs = set(map(id, jaxpr.invars[-1 - len(jax.tree.leaves(start[1])) :]))
    readers = [equation for equation in jaxpr.eqns if not inputs.isdisjoint(map(id, equation.invars))]
    sums = [e for e in readers if e.primitive.name == "add" and inputs == set(map(id, e.invars))]
    return len(inputs) == 2 and len(readers) == len(sums) == 1 and inputs.isdisjoint(map(id, jaxpr.outvars))


def _gates(cell: GatedCell, params: Params, before: State, z: Any, r: Array) -> State:
    """Returns the new state in the types of the state before."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), cell.gates(params, before, z, r), before)
