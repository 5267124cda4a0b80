"""Unrolling of gated cells with a derivative of their own, whose largest product waits until the loop is over."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnnjax.cells.cell import GatedCell, Params, State, recurrent_product
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import fuses
from rnnjax.unrolling.cutting import lost_to_reset
from rnnjax.unrolling.products import Products, Starts, instantiated, products_of
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.selecting import select, zeros_where


@dataclasses.dataclass(frozen=True)
class Fused(Method):
    """The recurrence of a gated cell as a whole, in XLA's loop, with its own derivative.

    With h_t the state before step t and r_t = h_t W, the loop forward keeps every state and r_t. The loop backward
    evaluates the gates again and takes one product a step, d r_t W^T; then d W = sum_t h_t^T d r_t is one product of
    all steps, as is what the parameters of gates that are not pointwise (a projection) get. The derivative is given in
    forward mode and transposed by JAX, so that `jax.jvp`, `jax.grad` of any order, `jax.vmap`, `jax.checkpoint` and
    `jax.shard_map` apply as they do to `Scan`.

    Where there are several gates, the weights are small and the gates read z and r as a sum, that sum is one product a
    step, [x, 1, h] times W_x, b and W, one above the other: z is then neither written nor read for the whole sequence.
    Where they read z and r apart, as the GRU's do, or W is large and W_x is not, a CPU makes z step by step.

    Attributes:
      unroll: copies of the step in the loops' bodies.

    Raises:
      ValueError: for a number below 1; when it runs, for a cell that is not a `GatedCell` or has a `step` of its own.
    """

    unroll: int = 1

    def __post_init__(self):
        keep_sizes(self, "unroll")

    def why_not(self, recurrence: Recurrence) -> str | None:
        if fuses(recurrence.cell):
            return None
        name = type(recurrence.cell).__name__
        return (
            f"Fused() takes gated cells whose step is GatedCell's, and {name} is not one here; "
            "use Scan(), or Auto() for a method each"
        )

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        cell: Any = recurrence.cell
        steps = recurrence.steps
        initial = None if steps.resets is None else recurrence.initial
        products = products_of(cell, recurrence)
        loop = _Loop(products, recurrence.params, recurrence.state, initial, *steps[1:])
        return _run(self.unroll, cell, loop)


class _Loop(NamedTuple):
    """The arrays of a recurrence, in which its derivative is taken; as in `Recurrence` and `Steps`."""

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
    """Returns the outputs and the final state, what each step started from, and where it is lost to a reset."""
    products, params, dtype = loop.products, loop.params, loop.products.dtype

    def step(carry, item):
        (state, carried), (item, valid, resets, followed) = carry, item
        before = state if resets is None else select(resets, loop.initial, state)
        z, r, carried = products.step(cell, params, carried, item, before.h)
        new = _gates(cell, params, before, z, r)
        after = new if valid is None else select(valid, new, state)
        lost = None if followed is None else lost_to_reset(followed, before, new)
        return (after, carried), (new.h.astype(dtype), before, r, z if products.makes_z else None, lost)

    items = (products.items(), loop.valid, loop.resets, loop.followed)
    (state, _), (ys, befores, rs, made, lost) = jax.lax.scan(step, (loop.state, products.first()), items, unroll=unroll)
    return (ys, state), Starts(befores, products.zs_after(made), rs), lost


@functools.partial(_run.defjvp, symbolic_zeros=True)
def _derivative(unroll: int, cell: GatedCell, primals: tuple[_Loop], tangents: tuple[_Loop]) -> tuple[Any, Any]:
    """Returns the outputs, and what a change of the loop's arrays changes in them, by a loop linear in the changes."""
    (loop,), (change,) = primals, tangents
    products, params = loop.products, loop.params
    outputs, starts, lost = _forward(unroll, cell, loop)
    if lost is not None:  # where it is, the derivative is multiplied by zero, and must be finite
        safe = jax.tree.map(jnp.broadcast_to, loop.initial, jax.tree.map(jnp.shape, starts.state))
        starts = Starts(select(lost, safe, starts.state), *zeros_where(lost, starts[1:]))
    d_zs, d_rs = products.tangents(change.products, cell, params, starts)
    d_params, d_state, d_initial = (
        instantiated(getattr(loop, name), getattr(change, name)) for name in ("params", "state", "initial")
    )
    # The gates' own parameters get their gradient in the loop if gates are pointwise, else after it, for all steps.
    own, d_own = (params, d_params) if cell.pointwise else (None, None)
    d_mixed = None if cell.pointwise else _by_parameters(cell, params, d_params, starts)
    w_h, dtype = products.hidden_rows(starts.state.h), products.dtype

    # Evaluated again on the way back: storing the gates' derivatives would write and read more than that costs.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def d_gates(start, d_start):
        gates = lambda own, *start: _gates(cell, own if cell.pointwise else params, *start)  # noqa: E731
        return jax.jvp(gates, (own, *start), (d_own, *d_start))[1]

    def step(d_state, item):
        start, d_z, d_r, d_mixed, valid, resets = item
        d_before = d_state if resets is None else select(resets, d_initial, d_state)
        d_r = d_r + recurrent_product(d_before.h, w_h, dtype)
        d_z = jax.tree.map(jnp.zeros_like, start.z) if d_z is None else d_z
        d_new = d_gates(start, (d_before, d_z, d_r))
        d_new = d_new if d_mixed is None else jax.tree.map(jnp.add, d_new, d_mixed)
        d_after = d_new if valid is None else select(valid, d_new, d_state)
        return d_after, d_new.h.astype(dtype)

    items = (starts, d_zs, d_rs, d_mixed, loop.valid, loop.resets)
    d_state, d_ys = jax.lax.scan(step, d_state, items, unroll=unroll)
    return outputs, (d_ys, d_state)


def _by_parameters(cell: GatedCell, params: Params, d_params: Params, starts: Starts) -> State:
    """Returns what a change of the parameters that the gates read changes in the new state of every step."""

    def gates(params):
        return jax.vmap(functools.partial(_gates, cell, params))(*starts)

    return jax.checkpoint(lambda params, d_params: jax.jvp(gates, (params,), (d_params,))[1])(params, d_params)


def _gates(cell: GatedCell, params: Params, before: State, z: Any, r: Array) -> State:
    """Returns the new state in the types of the state before; z is None where r has it in it."""
    z = jnp.zeros_like(r) if z is None else z
    return jax.tree.map(lambda new, old: new.astype(old.dtype), cell.gates(params, before, z, r), before)
