"""The states of all steps by Newton's method, with the derivative of the implicit function theorem."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnnjax.cells.cell import Cell, Params, State
from rnnjax.unrolling.chunks import Chunks
from rnnjax.unrolling.newton_jacobian import all_steps, jacobians
from rnnjax.unrolling.newton_layout import Blocks, Layout
from rnnjax.unrolling.newton_linear import applied, linear_solution, solved
from rnnjax.unrolling.prefixes import shifted
from rnnjax.unrolling.recurrence import Recurrence, Steps
from rnnjax.unrolling.varying import vary, varying_axes


class NewtonReport(NamedTuple):
    """How Newton's method went for one recurrence.

    Attributes:
      iterations: how many iterations were taken, those of all sequences together.
      converged: for which sequences the residuals of all steps are small enough.
        If one has not, the steps of all were then taken one after another.
      right_steps: how many steps, from the first on, have a residual that is small enough: T where all have.
      residual: the largest residual, as a share (see `Newton.tolerance`), possibly NaN.
    """

    iterations: Int[Array, ""]
    converged: Bool[Array, "*B"]
    right_steps: Int[Array, "*B"]
    residual: Float[Array, "*B"]


class Solver(NamedTuple):
    """What does not change while a program runs: the cell, and the options of `Newton`.

    Attributes:
      cell: the cell.
      blocks: the blocks of the Jacobians.
      exact: whether these leave nothing out.
      tolerance, iterations, damping: as in `Newton`.
      chunks: the parts of the sequence that are elsewhere.
    """

    cell: Cell
    blocks: Blocks
    exact: bool
    tolerance: float
    iterations: int
    damping: float
    chunks: Chunks


class _Arrays(NamedTuple):
    """The arrays of a recurrence, with respect to which the states are differentiated."""

    params: Params
    state: State
    initial: State
    steps: Steps

    def recurrence(self, cell: Cell) -> Recurrence:
        return Recurrence(cell, self.params, self.state, self.initial, self.steps)


def all_states(solver: Solver, recurrence: Recurrence) -> tuple[State, NewtonReport]:
    """Returns the states after all steps, each leaf ``[T, *batch, ...]``, and how they were found."""
    return _states(solver, _Arrays(*recurrence[1:5]))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _states(solver: Solver, arrays: _Arrays) -> tuple[State, NewtonReport]:
    # What is not finite before a reset is left to the steps that are taken one after another.
    steps = arrays.steps._replace(followed=None)
    recurrence = arrays._replace(steps=steps).recurrence(solver.cell)
    layout = Layout.of(solver.blocks, solver.cell, arrays.state)
    last, residuals = _iterated(solver, recurrence, layout)
    residuals, counts = solver.chunks.whole(residuals), solver.chunks.whole(last.count[None])
    right = _steps_before_first(_wrong(solver, residuals))
    converged = right == residuals.shape[0]
    states = _in_order_unless(converged.all(), solver.chunks, recurrence, layout.unpack(last.rows[1:]))
    return states, NewtonReport(counts.max(), converged, right, residuals.max(0))


class _Iterate(NamedTuple):
    """The states after `count` iterations, packed, below that before the first step; and those that steps give."""

    count: Int[Array, ""]
    rows: Float[Array, "R D *B N"]
    after: Float[Array, "T D *B N"]


def _iterated(solver: Solver, recurrence: Recurrence, layout: Layout) -> tuple[_Iterate, Float[Array, "T *B"]]:
    """Returns the iterate with which all residuals are small enough, or the last one; and its residuals."""
    start, length, chunks = layout.pack(recurrence.state), recurrence.length, solver.chunks

    def iterate(count: Array, rows: Array) -> _Iterate:
        return _Iterate(count, rows, layout.pack(all_steps(recurrence, layout.unpack(rows[:-1]))))

    def residuals(iterate: _Iterate) -> Array:
        sizes, after = layout.sizes_of_leaves(iterate.rows), layout.sizes_of_leaves(iterate.after)
        # The smallest normal number, since states may be zero.
        sizes = jnp.maximum(jnp.maximum(sizes[:, :-1], after), jnp.finfo(sizes.dtype).tiny)
        by_array = (layout.sizes_of_leaves(iterate.after - iterate.rows[1:]) / sizes).max(0)
        if not solver.exact or layout.blocks == "dense":
            return by_array

        def by_unit() -> Array:
            rows, after = iterate.rows, iterate.after
            own = jnp.maximum(jnp.maximum(jnp.abs(rows[:-1]), jnp.abs(after)), 1)
            return (layout.sizes_of_leaves((after - rows[1:]) / own) / jnp.minimum(sizes, 1)).max(0)

        # Units that read no other are not measured by one beyond 1, but by 1. Without such a one both are the same.
        return jax.lax.cond(jnp.any(sizes > 1), by_unit, lambda: by_array)

    def corrected(last: _Iterate) -> _Iterate:
        count, rows, after = last
        states = rows[1:]
        jacobian = (1 - solver.damping) * jacobians(recurrence, layout, layout.unpack(rows[:-1]))
        new = states + solved(_finite(jacobian), _finite(after - states), chunks)
        # A fixed-point iteration where a correction overflows, so that this is not handed on.
        new = jnp.where(jnp.isfinite(new), new, jnp.where(jnp.isfinite(after), after, states))
        return iterate(count + 1, jnp.concatenate([chunks.before(new, start)[None], new]))

    # Asked here, of what is in memory: fused with the steps, each reduction would take them once more.
    def goes_on(last: _Iterate) -> Array:
        return (last.count < solver.iterations) & chunks.any(_wrong(solver, residuals(last)).any())

    first = iterate(jnp.zeros((), jnp.int32), jnp.broadcast_to(start, (length + 1, *start.shape)))
    first = vary(first, varying_axes((first, recurrence.params, recurrence.steps)))
    last = jax.lax.while_loop(goes_on, corrected, first)
    return last, residuals(last)


def _wrong(solver: Solver, residuals: Float[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Returns which residuals are too large, or NaN, as that of an infinite state is."""
    return ~(residuals <= solver.tolerance)


def _finite(numbers: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the numbers with zeros for those that are not finite."""
    return jnp.where(jnp.isfinite(numbers), numbers, 0)


def _steps_before_first(wrong: Bool[Array, "T *B"]) -> Int[Array, "*B"]:
    """Returns how many steps are before the first that is wrong in each sequence, T where none is."""
    return jnp.where(wrong.any(0), wrong.argmax(0), wrong.shape[0]).astype(jnp.int32)


def _in_order_unless(converged: Bool[Array, ""], chunks: Chunks, recurrence: Recurrence, states: State) -> State:
    """Returns the states as they are where they have converged, otherwise all computed one step after another.

    Not from the last step that is right: it is so within a tolerance, and cells whose iterations do not converge
    amplify differences. From the first step on, the states are those of `Scan`, bit by bit.
    """

    def step(t: Array, carry: tuple[State, State]) -> tuple[State, State]:
        before, states = carry
        after, _ = recurrence.step(before, jax.tree.map(lambda leaf: leaf[t], recurrence.steps))
        return after, jax.tree.map(lambda leaf, new: leaf.at[t].set(new), states, after)

    # In place: states by themselves would be as many once more, in memory even where this is not needed.
    def part(before: State, states: State) -> tuple[State, State]:
        return jax.lax.fori_loop(0, recurrence.length, step, (before, states))

    return chunks.in_turns(~converged, part, recurrence.state, states)


@_states.defjvp
def _derivative(solver: Solver, primals: tuple[_Arrays], tangents: tuple[_Arrays]) -> tuple[Any, Any]:
    """d s_t = J_t d s_{t-1} + what step t changes by itself, at the states that were found.

    It is linear in tangents, so that JAX runs it backward in time.
    """
    (arrays,), (change,) = primals, tangents
    states, report = _states(solver, arrays)
    befores = shifted(states, solver.chunks.before(states, arrays.state), reverse=False)

    def by_themselves(params: Params, initial: State, steps: Steps) -> State:
        return all_steps(arrays._replace(params=params, initial=initial, steps=steps).recurrence(solver.cell), befores)

    given = arrays.params, arrays.initial, arrays.steps
    forced = jax.jvp(by_themselves, given, (change.params, change.initial, change.steps))[1]
    tangent = _at_once if solver.exact else _in_order
    d_states = tangent(solver, arrays, befores, forced, change.state)
    no_change = jax.tree.map(jax.custom_derivatives.zero_from_primal, report)
    return (states, report), (d_states, no_change)


def _at_once(solver: Solver, arrays: _Arrays, befores: State, forced: State, d_state: State) -> State:
    """Returns the tangents of all states, by one linear recurrence of matrices."""
    layout = Layout.of(solver.blocks, solver.cell, arrays.state)
    jacobian = jacobians(arrays.recurrence(solver.cell), layout, befores)
    d_start = solver.chunks.at_start(applied(jacobian[0], layout.pack(d_state), 0))
    return layout.unpack(linear_solution(jacobian, layout.pack(forced).at[0].add(d_start), solver.chunks))


def _in_order(solver: Solver, arrays: _Arrays, befores: State, forced: State, d_state: State) -> State:
    """Returns the tangents of all states one after another, since what one block reads of another counts here."""
    recurrence = arrays.recurrence(solver.cell)

    # Its derivative is computed where it is used: kept for all steps, it would be as large as that of `Scan`.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def along(before: State, step: Steps, d_before: State) -> State:
        return jax.jvp(lambda before: recurrence.step(before, step)[0], (before,), (d_before,))[1]

    def step(d_before: State, item: tuple[State, Steps, State]) -> tuple[State, State]:
        before, step_inputs, by_itself = item
        d_after = jax.tree.map(jnp.add, along(before, step_inputs, d_before), by_itself)
        return d_after, d_after

    return jax.lax.scan(step, d_state, (befores, arrays.steps, forced))[1]
