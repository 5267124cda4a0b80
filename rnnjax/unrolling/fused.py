"""Unrolling of gated cells with a derivative of their own, whose largest product waits until the loop is over."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import Cell, GatedCell, Params, State, compute_dtype, recurrent_product, rows
from rnnjax.cells.sizes import keep_sizes
from rnnjax.kernels.selection import check_backend, kernel_for
from rnnjax.unrolling.recurrence import Recurrence, adds_a_bias, select
from rnnjax.unrolling.scan import Scan

_SMALL_WEIGHT = 2**19  # entries, 2 MiB in float32: it stays in a core's cache, and half of it is not read for nothing


@dataclasses.dataclass(frozen=True)
class Fused:
    """The recurrence of a gated cell as a whole, with its own derivative.

    With h_t the state before step t and r_t = h_t W, the loop forward keeps every state and r_t. The loop backward
    evaluates the gates again and takes one product a step, d r_t W^T; then d W = sum_t h_t^T d r_t is one product of
    all steps, as is what the parameters of gates that are not pointwise (a projection) get. The derivative is given in
    forward mode and transposed by JAX, so that `jax.jvp`, `jax.grad` of any order, `jax.vmap`, `jax.checkpoint` and
    `jax.shard_map` apply as they do to `Scan`. A cell that is not a `GatedCell`, or has a `step` of its own, is left to
    `Scan`.

    Where there are several gates, the weights are small and the gates read z and r as a sum, that sum is one product a
    step, [x, 1, h] times W_x, b and W, one above the other: z is then neither written nor read for the whole sequence.
    Where they read z and r apart, as the GRU's do, or W is large and W_x is not, a CPU makes z step by step.

    Attributes:
      unroll: copies of the step in the loops' bodies.
      backend: "xla" for that loop; "pallas", kernels that hold the weight on a GPU's chip for all steps, and "cudnn",
        both without `jax.jvp`; "auto" for what was measured to be the fastest where it applies.
      interpret: whether to run the pallas kernels on a CPU, slowly, as their tests do.

    Raises:
      ValueError: for a number below 1 or an unknown backend; when it runs, for one that cannot serve the recurrence.
    """

    unroll: int = 1
    backend: str = "auto"
    interpret: bool = False

    def __post_init__(self):
        keep_sizes(self, "unroll")
        check_backend(self.backend, self.interpret)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        cell = recurrence.cell
        kernel = kernel_for(self.backend, recurrence, self.interpret)
        if kernel is not None:
            return kernel(recurrence)
        if not isinstance(cell, GatedCell) or not fuses(cell):
            return Scan(self.unroll).run(recurrence)
        weight = cell.recurrent_weight(recurrence.params)
        if _joins(cell, weight, recurrence):
            return _run(self.unroll, cell, *_joined(cell, weight, recurrence))
        xs = recurrence.xs if _makes_z_by_step(weight, recurrence) else None
        return _run(self.unroll, cell, weight, recurrence._replace(cell=None, xs=xs, gaps=None, keeps_states=None))


def fuses(cell: Cell) -> bool:
    """Returns whether a cell's step is what `GatedCell` makes of its `gates` and `recurrent_weight`."""
    kind, halves = type(cell), (GatedCell.step, GatedCell.advance, GatedCell.read)
    return isinstance(cell, GatedCell) and (kind.step, kind.advance, kind.read) == halves


def _joins(cell: GatedCell, weight: Float[Array, "O G H"], given: Recurrence) -> bool:
    """Returns whether the inputs are to be multiplied in the loop, beside the hidden state.

    A single gate is read as fast from z: measured, it loses by the longer product.
    """
    rows_at_most = _SMALL_WEIGHT // (weight.shape[1] * weight.shape[2])
    if given.xs is None or weight.shape[1] == 1 or given.xs.shape[-1] + weight.shape[0] > rows_at_most:
        return False
    zs = jax.tree.leaves(given.steps.z)
    if len(zs) != 1 or zs[0].shape[1:] != (*given.state.h.shape[:-1], *weight.shape[1:]):
        return False  # not the terms of a sum
    z = jax.tree.map(lambda leaf: leaf[0], given.steps.z)
    start = (given.state, z, zs[0][0].astype(given.state.h.dtype))
    return cell.pointwise and adds_a_bias(given) and _read_as_a_sum(cell, given.params, start)


def _makes_z_by_step(weight: Float[Array, "O G H"], given: Recurrence) -> bool:
    """Returns whether the inputs are to be projected in the loop, by a product of their own.

    So on a CPU, where z of the whole sequence is memory that every call has to map; but one input is no matrix product.
    """
    if given.xs is None or jax.default_backend() != "cpu":
        return False
    if weight.shape[1] == 1 or not 1 < given.xs.shape[-1] <= _SMALL_WEIGHT // weight[0].size:
        return False
    return adds_a_bias(given)


def _joined(cell: GatedCell, weight: Float[Array, "O G H"], given: Recurrence) -> tuple[Array, Recurrence]:
    """Returns ``[W_x; b; W]``, and the recurrence with ``[x, 1]`` in the place of z."""
    params, dtype = given.params, compute_dtype(given.steps.z)
    bias = cell.gate_inputs(params, jnp.zeros((1, *weight.shape[1:]), dtype))
    xs = jnp.asarray(given.xs, dtype)
    xs = jnp.concatenate([xs, jnp.ones_like(xs[..., :1])], -1)
    weight = jnp.concatenate([params.w_x.astype(weight.dtype), bias.astype(weight.dtype), weight])
    return weight, given._replace(cell=None, xs=xs, steps=given.steps._replace(z=None), gaps=None, keeps_states=None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _run(unroll: int, cell: GatedCell, weight: Float[Array, "O G H"], given: Recurrence) -> tuple[Array, State]:
    return _forward(unroll, cell, weight, given)[0]


def _forward(unroll: int, cell: GatedCell, weight: Array, given: Recurrence) -> tuple[tuple[Array, State], Any]:
    """Returns the outputs and the final state, and what each step started from: the state and its product.

    The inputs are multiplied beside the hidden state (there is no z), or made to z (there are both), or are z already.
    With several gates, each step then fetches z of the next: XLA's CPU compiler, which would look up every gate of
    every unit in the whole sequence, then reads them from one place.
    """
    dtype, joined, steps = _dtype(given), given.steps.z is None, given.steps
    made = given.xs is not None and not joined
    ahead = weight.shape[1] > 1 and given.xs is None

    def step(carry, item):
        (state, z), ((fetched, valid, resets), x) = carry, item
        z, z_after = (z, fetched) if ahead else (fetched, None)
        z = cell.inputs(given.params, x[None])[0] if made else z
        before = state if resets is None else select(resets, given.initial, state)
        r = recurrent_product(_multiplied(x if joined else None, before.h), weight, dtype)
        new = _gates(cell, given.params, before, z, r)
        after = new if valid is None else select(valid, new, state)
        return (after, z_after), (new.h.astype(dtype), before, r, z if made else None)

    first = None
    if made:
        steps = steps._replace(z=None)
    elif ahead:
        first = jax.tree.map(lambda z: z[0], steps.z)
        steps = steps._replace(z=jax.tree.map(lambda z: jnp.roll(z, -1, 0), steps.z))
    (state, _), (ys, *saved) = jax.lax.scan(step, (given.state, first), (steps, given.xs), unroll=unroll)
    return (ys, state), saved


@functools.partial(_run.defjvp, symbolic_zeros=True)
def _derivative(unroll: int, cell: GatedCell, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (weight, given), (d_weight, d_given) = primals, jax.tree.map(_instantiated, primals, tangents)
    outputs, (befores, rs, made) = _forward(unroll, cell, weight, given)
    if made is not None:  # z is what the derivative is taken at and along, whatever it was made from
        given, d_given = (each._replace(xs=None) for each in (given, d_given))
        given = given._replace(steps=given.steps._replace(z=made))
    params, zs, dtype, w_h = given.params, given.steps.z, _dtype(given), weight[-befores.h.shape[-1] :]
    own, d_own = (params, d_given.params) if cell.pointwise else (None, None)

    # Kept would be more than is read again here: gates are cheaper to evaluate than their derivatives to store.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def d_gates(at, d_at):
        gates = lambda own, *at: _gates(cell, own if cell.pointwise else params, *at)  # noqa: E731
        return jax.jvp(gates, (own, *at), (d_own, *d_at))[1]

    def step(d_state, item):
        (before, z, r), d_z, d_r, d_mixed, valid, resets = item
        d_before = d_state if resets is None else select(resets, d_given.initial, d_state)
        d_r = d_r + recurrent_product(d_before.h, w_h, dtype)
        d_new = d_gates((before, z, r), (d_before, jax.tree.map(jnp.zeros_like, z) if d_z is None else d_z, d_r))
        d_new = d_new if d_mixed is None else jax.tree.map(jnp.add, d_new, d_mixed)
        d_after = d_new if valid is None else select(valid, d_new, d_state)
        return d_after, d_new.h.astype(dtype)

    starts = (befores, zs, rs)
    multiplied = rows(_multiplied(given.xs, befores.h))
    d_zs, d_rs = d_given.steps.z, recurrent_product(multiplied, d_weight, dtype).reshape(rs.shape)
    if not _is_zero(tangents[1].xs) and given.xs is not None:
        d_rs = d_rs + recurrent_product(d_given.xs, weight[: given.xs.shape[-1]], dtype).astype(rs.dtype)
    if given.xs is None and _read_as_a_sum(cell, params, jax.tree.map(lambda leaf: leaf[0], starts)):
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
    """Returns the new state in the types of the state before; z is None where r has it in it."""
    z = jnp.zeros_like(r) if z is None else z
    return jax.tree.map(lambda new, old: new.astype(old.dtype), cell.gates(params, before, z, r), before)


def _dtype(given: Recurrence) -> jnp.dtype:
    """Returns the type of the products."""
    return compute_dtype(given.xs if given.steps.z is None else given.steps.z)


def _multiplied(x: Array | None, h: Array) -> Array:
    """Returns what the weight multiplies: the hidden state, after the inputs where they are multiplied with it."""
    return h if x is None else jnp.concatenate([x.astype(h.dtype), h], -1)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _instantiated(primal: Array, tangent: Any) -> Any:
    """Returns a tangent as an array."""
    return jax.custom_derivatives.zero_from_primal(primal) if _is_zero(tangent) else tangent
