"""The C++ source of a linear or diagonal cell: its traced step and its derivative, for the engine in `unitwise.h`.

The units of such a cell do not read each other, so that a step is a function of each unit by itself.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnnjax.cells.traits import adds_a_bias, is_told_of
from rnnjax.unrolling.kernels.layout import one_unit
from rnnjax.unrolling.kernels.pointwise import Pointwise
from rnnjax.unrolling.kernels.traced_gates import with_gradients, with_one_unit
from rnnjax.unrolling.native.expressions import flat_jaxpr, in_two_parts, statements
from rnnjax.unrolling.recurrence import Recurrence

STEPS = 56  # that a kernel takes at once: four tiles of the most rows that registers hold


class UnitwisePlan(NamedTuple):
    """How the arrays of such a cell's recurrence are handed to its kernel.

    Attributes:
      hidden: number H of hidden units.
      entries: how many entries of z each unit has.
      params: how many entries of parameters each unit has.
      leaves: number of leaves of the state.
      projected: whether the kernel computes z from the inputs.
      outputs: number of outputs, if the kernel computes them too; 0: it does not.
      reads_params, reads_z: for each leaf of the parameters and of z, whether the step reads it.
    """

    hidden: int
    entries: int
    params: int
    leaves: int
    projected: bool
    outputs: int
    reads_params: tuple[bool, ...]
    reads_z: tuple[bool, ...]


def unitwise_plan_and_source(recurrence: Recurrence) -> tuple[UnitwisePlan, str]:
    """Returns how such a cell's recurrence is handed to its kernel, and the kernel's source.

    Raises:
      NotImplementedError: if its step uses an operation without a C++ form.
    """
    state, z = recurrence.state, recurrence.steps.z
    hidden = jax.tree.leaves(state)[0].shape[-1]
    batch_axes = jax.tree.leaves(state)[0].ndim - 1
    params = jax.tree.map(lambda leaf: _of_one_unit(leaf, 0, hidden), recurrence.params)
    one_z = jax.tree.map(lambda leaf: _of_one_unit(leaf, batch_axes + 1, hidden), z)
    one_state = jax.tree.map(lambda leaf: _of_one_unit(leaf, batch_axes, hidden), state)
    reads, forward, backward = _traced(recurrence.cell, params, one_z, one_state)
    count = len(jax.tree.leaves(params))
    reads_params, reads_z = reads[:count], reads[count:]
    sizes = [
        [leaf.size for leaf, is_read in zip(jax.tree.leaves(tree), flags) if is_read]
        for tree, flags in ((params, reads_params), (one_z, reads_z))
    ]
    entries = [sum(each) for each in sizes]
    if not entries[1]:
        raise NotImplementedError("its steps read no inputs")
    projected = _is_projected(recurrence, entries[1], reads_z)
    leaves = len(jax.tree.leaves(state))
    outputs = _own_outputs(recurrence, leaves, projected=projected)
    plan = UnitwisePlan(hidden, entries[1], entries[0], leaves, projected, outputs, reads_params, reads_z)
    return plan, _source(plan, forward, backward, [*sizes[0], *sizes[1], *[1] * plan.leaves])


def _of_one_unit(leaf: Any, axes: int, hidden: int) -> Any:
    """Returns the shape of what one unit has of an array, without the axes of time and batch in front."""
    return one_unit(jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), hidden)


def _traced(cell: Any, params: Any, z: Any, state: Any) -> tuple[tuple[bool, ...], Pointwise, Pointwise]:
    """Returns which leaves of the parameters and of z a step reads, the step of one unit, and its derivative."""
    cell = with_one_unit(cell)
    params_leaves, params_tree = jax.tree.flatten(params)
    z_leaves, z_tree = jax.tree.flatten(z)
    state_leaves, state_tree = jax.tree.flatten(state)
    count = len(params_leaves)

    def new_state(leaves: list[Any], state: list[Any]) -> list[Any]:
        params, z = params_tree.unflatten(leaves[:count]), z_tree.unflatten(leaves[count:])
        return jax.tree.leaves(cell.advance(params, state_tree.unflatten(state), z))

    return with_gradients(new_state, [*params_leaves, *z_leaves], state_leaves)


def projection(cell: Any, params: Any, xs: Any) -> tuple[Array, Array | None] | None:
    """Returns ``w [I, n, H]`` and ``bias [n, H]`` such that z is ``x @ w + bias``; None where that is not known."""
    if xs is None:
        return None
    if adds_a_bias(cell, params, xs):
        # What is added to a projected input of zero.
        return params.w_x, cell.gate_inputs(params, jnp.zeros((1, *params.w_x.shape[1:]), jnp.float32))[0]
    return cell.affine_inputs(params) if is_told_of(cell, "affine_inputs", "inputs") else None


def _is_projected(recurrence: Recurrence, entries: int, reads_z: tuple[bool, ...]) -> bool:
    """Says whether the kernel computes z: it can, and the outputs do not need the same z, which would be made twice."""
    cell: Any = recurrence.cell
    shapes = jax.eval_shape(functools.partial(projection, cell), recurrence.params, recurrence.xs)
    if shapes is None or shapes[0].shape[1] != entries:
        return False
    read = Pointwise(cell.read, recurrence.params, recurrence.state, _at_one_step(recurrence)).reads
    return not any(a and b for a, b in zip(reads_z, read[len(read) - len(reads_z) :]))


def _own_outputs(recurrence: Recurrence, leaves: int, *, projected: bool) -> int:
    """Returns the number of outputs that the kernel computes; 0 where it does not."""
    cell: Any = recurrence.cell
    told = recurrence.may_finish and is_told_of(cell, "affine_outputs", "read", "outputs")
    found = jax.eval_shape(cell.affine_outputs, recurrence.params) if told else None
    if found is None or found[0].shape[0] != leaves:
        return 0
    # A scale is of inputs, which a kernel that does not project them has not.
    return found[0].shape[-1] if projected or found[1] is None else 0


def _at_one_step(recurrence: Recurrence) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), recurrence.steps.z)


def _source(plan: UnitwisePlan, forward: Pointwise, backward: Pointwise, sizes: list[int]) -> str:
    """Returns the source of a kernel.

    Args:
      plan: how the kernel is called.
      forward, backward: the step of one unit and its derivative.
      sizes: how many entries a unit has of each leaf of the parameters, of z and of the state.
    """

    def apart(entries: Any) -> list[list[Any]]:
        bounds = np.cumsum([0, *sizes, *[1] * plan.leaves])
        return [list(entries[a:b]) for a, b in itertools.pairwise(bounds[: len(entries) + 1]) if b <= len(entries)]

    def flat(function: Pointwise) -> Any:
        return lambda *entries: [tile for leaf in function(*apart(entries), like=entries[0]) for tile in leaf]

    names = _names("params", plan.params) + _names("z", plan.entries) + _names("old", plan.leaves)
    now, d_names = _names("now", plan.leaves), [f"d_{name}" for name in names]
    d_now = [f"d_{name}" for name in now]
    step = _Body.of(flat(forward), names, now, plan.params)
    derivative = _Body.of(flat(backward), names + d_now, d_names, plan.params)
    return _TEMPLATE.format(
        entries=plan.entries,
        params=plan.params,
        leaves=plan.leaves,
        steps=STEPS,
        projected=str(plan.projected).lower(),
        finished=str(plan.outputs > 0).lower(),
        kept=max(step.kept, derivative.kept),
        prepared="\n    ".join(step.prepared),
        forward="\n    ".join(step.statements),
        d_prepared="\n    ".join(derivative.prepared),
        backward="\n    ".join(derivative.statements),
    )


class _Body(NamedTuple):
    """A function in C++: what depends on parameters alone, computed once for all steps, and the rest.

    Attributes:
      kept: how many vectors the first part hands on.
      prepared: its statements.
      statements: those of every step.
    """

    kept: int
    prepared: list[str]
    statements: list[str]

    @classmethod
    def of(cls, function: Any, inputs: list[str], outputs: list[str], params: int) -> _Body:
        jaxpr, constants = flat_jaxpr(function, len(inputs))
        first, rest = in_two_parts(jaxpr, jaxpr.invars[:params])
        kept = _names("kept", len(first.outvars))
        prepared = statements(first, constants, inputs[:params], kept)
        return cls(len(kept), prepared, statements(rest, constants, inputs + kept, outputs))


def _names(array: str, count: int) -> list[str]:
    return [f"{array}[{i}]" for i in range(count)]


_TEMPLATE = """\
#include "vectors.h"

struct Cell {{
  static constexpr int ENTRIES = {entries}, PARAMS = {params}, LEAVES = {leaves}, KEPT = {kept};
  static constexpr long STEPS = {steps};
  static constexpr bool PROJECTED = {projected}, FINISHED = {finished};
  INLINE void prepare(const V* params, V* kept) {{
    {prepared}
  }}
  INLINE void forward(const V* z, const V* params, const V* kept, const V* old, V* now) {{
    {forward}
  }}
  INLINE void prepare_backward(const V* params, V* kept) {{
    {d_prepared}
  }}
  INLINE void backward(const V* z, const V* params, const V* kept, const V* old, const V* d_now, V* d_z, V* d_params,
                       V* d_old) {{
    {backward}
  }}
}};

#include "unitwise_calls.h"
"""
