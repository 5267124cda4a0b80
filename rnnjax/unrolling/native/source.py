"""The C++ source of a cell: its traced gates and their derivative, for the engine in the headers beside this file."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells.traits import adds_a_bias
from rnnjax.unrolling.kernels.layout import one_unit
from rnnjax.unrolling.kernels.traced_gates import Gates, gates_of
from rnnjax.unrolling.native.expressions import flat_jaxpr, statements
from rnnjax.unrolling.recurrence import Recurrence


class Plan(NamedTuple):
    """How a recurrence's arrays are handed to its kernel.

    Attributes:
      gates: number G of gates.
      hidden: number H of hidden units.
      entries: how many entries of z each unit has.
      params: how many entries of parameters each unit has.
      leaves: number of leaves of the state.
      position: which of these is h.
      projected: whether the kernel computes z from the inputs.
      summed: for each gate, whether the gates read the sum of its entries of z and r only.
      reads_params: for each leaf of the parameters, whether the gates read it.
    """

    gates: int
    hidden: int
    entries: int
    params: int
    leaves: int
    position: int
    projected: bool
    summed: tuple[bool, ...]
    reads_params: tuple[bool, ...]

    @property
    def own_products(self) -> int:
        """Number of gates whose r is stored by itself."""
        return self.summed.count(False)


def plan_and_source(recurrence: Recurrence) -> tuple[Plan, str]:
    """Returns how a recurrence is handed to its kernel, and the kernel's source.

    Raises:
      NotImplementedError: if its gates use an operation without a C++ form.
    """
    cell: Any = recurrence.cell
    state, z = recurrence.state, recurrence.steps.z
    batch_axes = state.h.ndim - 1
    weight = jax.eval_shape(cell.recurrent_weight, recurrence.params)
    count, hidden = weight.shape[1:]
    one_z = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[batch_axes + 1 :], leaf.dtype), z)
    params, gates = recurrence.params, gates_of(recurrence)
    params_read = [leaf for leaf, read in zip(jax.tree.leaves(params), gates.reads_params) if read]
    shares = _Shares(
        [_entries(leaf, hidden) for leaf in params_read],
        len(jax.tree.leaves(state)),
        [_entries(leaf, hidden) for leaf in jax.tree.leaves(one_z)],
        count,
    )
    projected = adds_a_bias(cell, recurrence.params, recurrence.xs) and shares.z == [count]
    summed = _summed(gates, shares) if projected else (False,) * count
    structure = jax.tree.structure(state)
    position = structure.unflatten(range(structure.num_leaves)).h
    entries = count if projected else sum(shares.z)
    plan = Plan(
        count, hidden, entries, sum(shares.params), shares.state, position, projected, summed, gates.reads_params
    )
    return plan, _source(plan, gates, shares)


def _entries(leaf: Any, hidden: int) -> int:
    return one_unit(leaf, hidden).size


@dataclasses.dataclass(frozen=True)
class _Shares:
    """Numbers of entries that a hidden unit has: of each leaf of parameters and of z, of the state, and of r."""

    params: list[int]
    state: int
    z: list[int]
    r: int

    def apart(self, flat: list[Any], *rest: int) -> list[list[Any]]:
        """Returns entries as the lists of the leaves that they belong to, in the order in which gates take them."""
        sizes = [*self.params, *[1] * self.state, *self.z, self.r, *rest]
        bounds = np.cumsum([0, *sizes])
        return [list(flat[a:b]) for a, b in itertools.pairwise(bounds)]


def _summed(gates: Gates, shares: _Shares) -> tuple[bool, ...]:
    """Returns for each gate whether its entries of z and r are read in their sum only."""

    def flat(*entries: Any) -> Any:
        return gates.forward(*shares.apart(list(entries)), like=entries[0])

    inputs = sum(shares.params) + shares.state
    jaxpr, _ = flat_jaxpr(flat, inputs + 2 * shares.r)
    zs, rs = jaxpr.invars[inputs : inputs + shares.r], jaxpr.invars[inputs + shares.r :]

    def in_sums(z: Any, r: Any) -> bool:
        readers = [equation for equation in jaxpr.eqns if any(v is z or v is r for v in equation.invars)]
        return not any(v is z or v is r for v in jaxpr.outvars) and all(
            equation.primitive.name == "add" and {id(v) for v in equation.invars} == {id(z), id(r)}
            for equation in readers
        )

    return tuple(in_sums(z, r) for z, r in zip(zs, rs))


def _source(plan: Plan, gates: Gates, shares: _Shares) -> str:
    """Returns the source of a cell's kernel."""
    own = [g for g, summed in enumerate(plan.summed) if not summed]

    def arguments(entries: Any) -> tuple[list[Any], list[Any]]:
        """Returns the entries that gates take, with zero for the r of a sum, and those that come behind."""
        entries = list(entries)
        head, behind = entries[: -len(own) or None], entries[len(entries) - len(own) :]
        r: list[Any] = [jnp.zeros((1, 1), jnp.float32)] * plan.gates
        for gate, entry in zip(own, behind):
            r[gate] = entry
        return head, r

    ahead = plan.params + plan.leaves + plan.entries

    def forward(*entries: Any) -> Any:
        head, r = arguments(entries)
        return [tile for (tile,) in gates.forward(*shares.apart([*head, *r]), like=entries[0])]

    def backward(*entries: Any) -> Any:
        d_now, entries = entries[-plan.leaves :], entries[: -plan.leaves]
        head, r = arguments(entries)
        leaves = shares.apart([*head, *r, *d_now], *[1] * plan.leaves)
        found = [tile for leaf in gates.backward(*leaves, like=entries[0]) for tile in leaf]
        return found[:ahead] + [found[ahead + gate] for gate in own]

    names = _names("params", plan.params) + _names("old", plan.leaves) + _names("z", plan.entries)
    names += _names("r", len(own))
    d_names = [f"d_{name}" for name in names]
    bodies = (
        statements(*flat_jaxpr(forward, len(names)), names, _names("now", plan.leaves)),
        statements(*flat_jaxpr(backward, len(names) + plan.leaves), names + _names("d_now", plan.leaves), d_names),
    )
    return _TEMPLATE.format(
        constants=", ".join(
            f"{name} = {value}"
            for name, value in (
                ("GATES", plan.gates),
                ("ENTRIES", plan.entries),
                ("PARAMS", plan.params),
                ("LEAVES", plan.leaves),
                ("HIDDEN", plan.position),
            )
        ),
        projected=str(plan.projected).lower(),
        summed=", ".join(str(each).lower() for each in plan.summed),
        forward="\n    ".join(bodies[0]),
        backward="\n    ".join(bodies[1]),
    )


def _names(array: str, count: int) -> list[str]:
    return [f"{array}[{i}]" for i in range(count)]


_TEMPLATE = """\
#include "vectors.h"

struct Cell {{
  static constexpr int {constants};
  static constexpr bool PROJECTED = {projected}, SUMMED[] = {{{summed}}};
  INLINE void forward(const V* z, const V* r, const V* params, const V* old, V* now) {{
    {forward}
  }}
  INLINE void backward(const V* z, const V* r, const V* params, const V* old, const V* d_now,
                       V* d_z, V* d_r, V* d_params, V* d_old) {{
    {backward}
  }}
}};

#include "calls.h"
"""
