"""Unrolling of gated cells with a custom derivative, whose largest product is taken once, after the backward loop."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from rnnjax.cells.cell import Params, State
from rnnjax.cells.checks import check_new_state
from rnnjax.cells.gated_cell import GatedCell, recurrent_product
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.cutting import lost_to_reset
from rnnjax.unrolling.instead import methods_for, why_not_closed_over
from rnnjax.unrolling.products import Products, Starts, instantiated, products_of
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.selecting import select, zeros_where


@dataclasses.dataclass(frozen=True)
class Fused(Method):
    """The recurrence of a gated cell in XLA's loop, with a custom derivative.

    With h_t the state before step t and r_t = h_t W, the forward loop stores every state and every r_t. The backward
    loop evaluates the gates again and takes one product a step, d r_t W^T. The gradient of the weight,
    d W = sum_t h_t^T d r_t, is then one product of all steps, and so is that of parameters which the gates themselves
    multiply by (a projection). The derivative is defined in forward mode and transposed by JAX, so that `jax.jvp`,
    `jax.grad` of any order, `jax.vmap`, `jax.checkpoint` and `jax.shard_map` apply as they do to `Scan`.

    The inputs are projected in one of three ways, whichever was measured to be fastest for the sizes: all steps before
    the loop, step by step in it, or in one product with the hidden state (see `rnnjax.unrolling.products`).

    Attributes:
      unroll: copies of the step in the body of each loop.

    Raises:
      ValueError: for a number below 1; when it runs, for a cell that is not a `GatedCell` or overrides its `step`.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GRU(8)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Fused())
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 8))
    """

    unroll: int = 1

    def __post_init__(self):
        keep_sizes(self, "unroll")

    def why_not(self, recurrence: Recurrence) -> str | None:
        if fuses(recurrence.cell):
            return why_not_closed_over(self, recurrence)
        name = type(recurrence.cell).__name__
        return (
            f"Fused() takes gated cells whose step is GatedCell's, and {name} is not one here; "
            f"use {methods_for(recurrence.cell)}, or Auto(), which chooses a method for each layer"
        )

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        cell: Any = recurrence.cell
        steps = recurrence.steps
        initial = None if steps.resets is None else recurrence.initial
        products = products_of(cell, recurrence)
        # `steps[1:]` leaves out z, which `products` holds in the form that it needs.
        loop = _Loop(products, recurrence.params, recurrence.state, initial, *steps[1:])
        return _run(self.unroll, cell, loop)


class _Loop(NamedTuple):
    """The arrays of a recurrence, with respect to which it is differentiated.

    `initial` is that of `Recurrence`; `valid`, `resets` and `followed` are those of `Steps`.
    """

    products: Products
    params: Params
    state: State
    initial: State | None
    valid: Array | None
    resets: Array | None
    followed: Array | None


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _run(unroll: int, cell: GatedCell, loop: _Loop) -> tuple[Array, State]:
    return _forward(unroll, cell, loop)[0]


def _forward(unroll: int, cell: GatedCell, loop: _Loop) -> tuple[tuple[Array, State], Starts, Array | None]:
    """Returns the outputs and the final state, what each step started from, and which steps are lost to a reset."""
    products, params = loop.products, loop.params

    def step(carry, step_inputs):
        state, carried = carry  # `carried` is what `products` hands on, such as the next step's z
        item, valid, resets, followed = step_inputs
        before = state if resets is None else select(resets, loop.initial, state)
        z, r, carried = products.step(cell, params, carried, item, before.h)
        new = _gates(cell, params, before, z, r)
        # `state`, not `before`: a step that is missing does not reset either.
        after = new if valid is None else select(valid, new, state)
        # Of `new`, not `after`: outputs of missing steps are set to zero by `unroll`, outside the loop.
        y = new.h.astype(products.dtype)
        lost = None if followed is None else lost_to_reset(followed, before, new)
        # z is returned only where the loop made it: otherwise it is already in memory for all steps.
        return (after, carried), (y, before, r, z if products.makes_z else None, lost)

    carry = (loop.state, products.first())
    step_inputs = (products.items(), loop.valid, loop.resets, loop.followed)
    # ys [T, *B, O]; befores, zs: leaves [T, *B, ...]; rs [T, *B, G, H]; lost [T, *B].
    (state, _), (ys, befores, rs, zs, lost) = jax.lax.scan(step, carry, step_inputs, unroll=unroll)
    return (ys, state), Starts(befores, products.zs_after(zs), rs), lost


def _finite_where(lost: Bool[Array, "T *B"], starts: Starts, initial: State) -> Starts:
    """Returns what steps start from, finite where they are lost: zero times their derivative there has to be zero."""
    # At the initial state, with z and r zero, gates are finite.
    safe = jax.tree.map(jnp.broadcast_to, initial, jax.tree.map(jnp.shape, starts.state))
    return Starts(select(lost, safe, starts.state), *zeros_where(lost, starts[1:]))


# Symbolic zeros, so that `Joined` leaves out the product by the inputs' tangent, which is often zero.
@functools.partial(_run.defjvp, symbolic_zeros=True)
def _derivative(unroll: int, cell: GatedCell, primals: tuple[_Loop], tangents: tuple[_Loop]) -> tuple[Any, Any]:
    """Returns the outputs and their tangents; the loop is linear in tangents, so that JAX can run it backward in time.

    A name with ``d_`` in front is the tangent of what the name stands for.
    """
    (loop,), (d_loop,) = primals, tangents
    products, params = loop.products, loop.params
    outputs, starts, lost = _forward(unroll, cell, loop)
    if lost is not None:
        starts = _finite_where(lost, starts, loop.initial)
    # Products of all steps at once; d_rs [T, *B, G, H] lacks only what comes through the hidden state.
    d_zs, d_rs = products.tangents(d_loop.products, cell, params, starts)
    d_params = instantiated(loop.params, d_loop.params)
    d_state = instantiated(loop.state, d_loop.state)
    d_initial = instantiated(loop.initial, d_loop.initial)
    # Parameters that gates read are vectors if the gates are pointwise: their gradient is summed in the loop. Those of
    # other gates may be matrices, whose gradient is cheaper as one product of all steps, outside of it.
    in_loop, d_in_loop = (params, d_params) if cell.pointwise else (None, None)
    d_news = None if cell.pointwise else _tangents_by_params(cell, params, d_params, starts)
    w_h = products.hidden_rows

    # Evaluated again in the backward loop: storing the gates' derivatives would cost more time in memory traffic.
    # Inside a loop's body nothing can be merged with the forward pass, so the barriers against it are left out.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def d_gates(start, d_start):
        # Parameters that are not in the loop are constants here: `_tangents_by_params` has their part.
        def gates(in_loop, *start):
            return _gates(cell, in_loop if cell.pointwise else params, *start)

        return jax.jvp(gates, (in_loop, *start), (d_in_loop, *d_start))[1]

    def step(d_state, step_inputs):
        start, d_z, d_r, d_new_by_params, valid, resets = step_inputs
        # The tangents go through the same selects as the values in `_forward`.
        d_before = d_state if resets is None else select(resets, d_initial, d_state)
        # Transposed by JAX, this is the one product of a backward step: d r W^T.
        d_r = d_r + recurrent_product(d_before.h, w_h, products.dtype)
        # Where gates read z + r, `d_r` is already the tangent of the sum.
        d_z = jax.tree.map(jnp.zeros_like, start.z) if d_z is None else d_z
        d_new = d_gates(start, (d_before, d_z, d_r))
        if d_new_by_params is not None:
            d_new = jax.tree.map(jnp.add, d_new, d_new_by_params)
        d_after = d_new if valid is None else select(valid, d_new, d_state)
        return d_after, d_new.h.astype(products.dtype)

    step_inputs = (starts, d_zs, d_rs, d_news, loop.valid, loop.resets)
    d_state, d_ys = jax.lax.scan(step, d_state, step_inputs, unroll=unroll)
    return outputs, (d_ys, d_state)


def _tangents_by_params(cell: GatedCell, params: Params, d_params: Params, starts: Starts) -> State:
    """Returns the tangents of every step's new state with respect to the parameters that the gates read."""

    def gates(params):
        return jax.vmap(functools.partial(_gates, cell, params))(*starts)

    # Without the checkpoint the gates of all steps would be kept for the way back.
    @jax.checkpoint
    def tangents(params, d_params):
        return jax.jvp(gates, (params,), (d_params,))[1]

    return tangents(params, d_params)


def _gates(cell: GatedCell, params: Params, before: State, z: Any, r: Array) -> State:
    """Returns the new state in the types of the state before it; z is None where r is the sum of both."""
    z = jnp.zeros_like(r) if z is None else z
    after = cell.gates(params, before, z, r)
    check_new_state(cell, after, before)
    # Cast back, since a loop's carry must keep its types.
    return jax.tree.map(lambda new, old: new.astype(old.dtype), after, before)
