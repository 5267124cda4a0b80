"""The products of a gated cell's steps: three ways to multiply inputs and hidden states, and the choice of one.

A gated step needs z, the projected inputs, and r, the product of the hidden state and the recurrent weight:

- `ZBefore`: z of all steps is one product before the loop, and the loop takes r;
- `ZByStep`: every step takes two products, z and r;
- `Joined`: every step takes one product, z + r.

The loop and its derivative, in `fused.py`, are the same for all of them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.backend import z_by_step
from rnnjax.cells.blocks import RecurrentWeight, gates_and_units, in_blocks
from rnnjax.cells.cell import Params, State, compute_dtype
from rnnjax.cells.gated_cell import GatedCell, recurrent_product
from rnnjax.cells.projecting import rows
from rnnjax.cells.traits import adds_a_bias, reads_a_sum
from rnnjax.dtypes import holding_all
from rnnjax.unrolling.recurrence import Recurrence

_SMALL_WEIGHT = 2**19  # entries, 2 MiB in float32: a weight of this size stays in a core's cache from step to step


class Starts(NamedTuple):
    """What the gates of every step read: the state before the step, z, and r; each leaf ``[T, *batch, ...]``.

    z is None where r is the sum of both.
    """

    state: State
    z: Any
    r: Array


@dataclasses.dataclass(frozen=True)
class Products(ABC):
    """A way to compute the products of every step: a pytree, with respect to whose arrays derivatives are taken.

    Attributes:
      weight: the weight that each step multiplies by; its last rows belong to the hidden state.
    """

    makes_z: ClassVar[bool] = False  # whether z is computed in the loop, which must then return it for the derivative

    weight: RecurrentWeight

    @property
    @abstractmethod
    def dtype(self) -> jnp.dtype:
        """Type of the operands of the products."""

    @abstractmethod
    def items(self) -> Any:
        """Returns what each step of the loop reads, each leaf ``[T, *batch, ...]``."""

    def first(self) -> Any:
        """Returns what the loop carries to its first step besides the state."""
        return None

    @abstractmethod
    def step(self, cell: GatedCell, params: Params, carried: Any, item: Any, h: Array) -> tuple[Any, Array, Any]:
        """Returns one step's z and r, and what the loop carries to the next step.

        Args:
          cell: the cell.
          params: its parameters.
          carried: what the loop carried to this step.
          item: what `items` returned for this step.
          h: the hidden state before the step, ``[*batch, O]``.
        """

    def zs_after(self, zs: Any) -> Any:
        """Returns the z of every step after the loop; `zs` is what the loop computed, None if it computes no z."""
        return zs

    @abstractmethod
    def tangents(self, change: Products, cell: GatedCell, params: Params, starts: Starts) -> tuple[Any, Array]:
        """Returns the tangents of every step's z and r for tangents of the products' arrays, with all states constant.

        Where the gates read z + r only, the tangent of z is None and that of r is the tangent of the sum, so that the
        backward loop computes one gradient for both.

        Args:
          change: the tangents of the products' arrays, which may be symbolic zeros.
          cell: the cell.
          params: its parameters.
          starts: what every step started from.
        """

    @property
    def hidden_rows(self) -> RecurrentWeight:
        """The rows of the weight that multiply the hidden state."""
        return self.weight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZBefore(Products):
    """z of all steps is computed before the loop, by any cell's `inputs`.

    With several gates, each step carries the z of the next step along: XLA's CPU compiler would otherwise look up every
    gate of every unit in the whole sequence, and so reads them from one small array.
    """

    zs: Any

    @property
    def dtype(self) -> jnp.dtype:
        return compute_dtype(self.zs)

    @property
    def _fetches_ahead(self) -> bool:
        return gates_and_units(self.weight)[0] > 1

    def items(self) -> Any:
        return jax.tree.map(lambda z: jnp.roll(z, -1, 0), self.zs) if self._fetches_ahead else self.zs

    def first(self) -> Any:
        return jax.tree.map(lambda z: z[0], self.zs) if self._fetches_ahead else None

    def step(self, cell: GatedCell, params: Params, carried: Any, item: Any, h: Array) -> tuple[Any, Array, Any]:
        z, z_after = (carried, item) if self._fetches_ahead else (item, None)
        return z, recurrent_product(h, self.weight, self.dtype), z_after

    def zs_after(self, zs: Any) -> Any:
        return self.zs

    def tangents(self, change: Products, cell: GatedCell, params: Params, starts: Starts) -> tuple[Any, Array]:
        assert isinstance(change, ZBefore)
        d_weight = instantiated(self.weight, change.weight)
        d_zs = instantiated(self.zs, change.zs)
        d_rs = recurrent_product(rows(starts.state.h), d_weight, self.dtype).reshape(starts.r.shape)
        if reads_a_sum(cell, params, *jax.tree.map(lambda leaf: leaf[0], starts)):
            return None, sum(jax.tree.leaves(d_zs), d_rs)
        return d_zs, d_rs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZByStep(Products):
    """z is computed step by step, by a product of its own, so that it is never in memory for the whole sequence.

    The derivative is that of `ZBefore` at the z that the loop computed. The field `zs` is there for its tangent alone:
    its values are not read, and XLA then does not compute them.
    """

    makes_z: ClassVar[bool] = True

    zs: Any
    xs: Float[Array, "T *B I"]

    @property
    def dtype(self) -> jnp.dtype:
        return compute_dtype(self.zs)

    def items(self) -> Any:
        return self.xs

    def step(self, cell: GatedCell, params: Params, carried: Any, item: Any, h: Array) -> tuple[Any, Array, Any]:
        return cell.inputs(params, item[None])[0], recurrent_product(h, self.weight, self.dtype), None

    def tangents(self, change: Products, cell: GatedCell, params: Params, starts: Starts) -> tuple[Any, Array]:
        assert isinstance(change, ZByStep)
        computed_before = ZBefore(self.weight, starts.z)
        return computed_before.tangents(ZBefore(change.weight, change.zs), cell, params, starts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joined(Products):
    """z + r is one product a step, of ``[x, 1, h]`` by ``[W_x; b; W]``: for gates that read that sum only.

    Attributes:
      xs: the inputs with a one behind each, which multiplies the bias.
    """

    xs: Float[Array, "T *B N"]

    @classmethod
    def of(cls, cell: GatedCell, weight: Float[Array, "O G H"], recurrence: Recurrence) -> Joined:
        """Returns the products of a recurrence whose z is ``xs @ w_x`` plus a bias."""
        params, dtype = recurrence.params, compute_dtype(recurrence.steps.z)
        bias = cell.gate_inputs(params, jnp.zeros((1, *weight.shape[1:]), dtype))
        xs = jnp.asarray(recurrence.xs, dtype)
        xs = jnp.concatenate([xs, jnp.ones_like(xs[..., :1])], -1)
        # In one type that holds each of them: a parameter may be of a wider type than another.
        parts = (params.w_x, bias, weight)
        joined = holding_all(*(part.dtype for part in parts))
        return cls(jnp.concatenate([part.astype(joined) for part in parts]), xs)

    @property
    def dtype(self) -> jnp.dtype:
        return compute_dtype(self.xs)

    @property
    def hidden_rows(self) -> RecurrentWeight:
        return self.weight[self.xs.shape[-1] :]

    def items(self) -> Any:
        return self.xs

    def step(self, cell: GatedCell, params: Params, carried: Any, item: Any, h: Array) -> tuple[Any, Array, Any]:
        return None, recurrent_product(_side_by_side(item, h), self.weight, self.dtype), None

    def tangents(self, change: Products, cell: GatedCell, params: Params, starts: Starts) -> tuple[Any, Array]:
        assert isinstance(change, Joined)
        d_weight = instantiated(self.weight, change.weight)
        operands = rows(_side_by_side(self.xs, starts.state.h))
        d_rs = recurrent_product(operands, d_weight, self.dtype).reshape(starts.r.shape)
        if is_zero(change.xs):
            return None, d_rs
        w_x = self.weight[: self.xs.shape[-1]]
        return None, d_rs + recurrent_product(change.xs, w_x, self.dtype).astype(d_rs.dtype)


def products_of(cell: GatedCell, recurrence: Recurrence) -> Products:
    """Returns the products of a recurrence, in the way that was measured to be fastest for its sizes."""
    weight = cell.recurrent_weight(recurrence.params)
    if _joins(cell, weight, recurrence):
        return Joined.of(cell, weight, recurrence)
    if recurrence.xs is not None and _makes_z_by_step(cell, weight, recurrence):
        return ZByStep(weight, recurrence.steps.z, recurrence.xs)
    return ZBefore(weight, recurrence.steps.z)


def _joins(cell: GatedCell, weight: RecurrentWeight, recurrence: Recurrence) -> bool:
    """Returns whether to multiply the inputs and the hidden state together, in one product a step.

    Not for a single gate: measured, the longer product costs more than reading z, which is then one small array.
    """
    xs, params, state = recurrence.xs, recurrence.params, recurrence.state
    if in_blocks(weight):
        return False
    most_rows = _SMALL_WEIGHT // (weight.shape[1] * weight.shape[2])
    if xs is None or weight.shape[1] == 1 or xs.shape[-1] + weight.shape[0] > most_rows:
        return False
    zs = jax.tree.leaves(recurrence.steps.z)
    if len(zs) != 1 or zs[0].shape[1:] != (*state.h.shape[:-1], *weight.shape[1:]):
        return False  # z and r differ in shape: the gates cannot read their sum only
    if not cell.pointwise or not adds_a_bias(cell, params, xs):
        return False
    z = jax.tree.map(lambda leaf: leaf[0], recurrence.steps.z)
    return reads_a_sum(cell, params, state, z, zs[0][0].astype(state.h.dtype))


def _makes_z_by_step(cell: GatedCell, weight: RecurrentWeight, recurrence: Recurrence) -> bool:
    """Returns whether to project the inputs step by step, by a product of their own.

    That pays on a CPU, where every call must map fresh memory for the z of the whole sequence; but not for a single
    input feature, whose projection is no matrix product.
    """
    if recurrence.xs is None or not z_by_step():
        return False
    gates, units = gates_and_units(weight)
    most_features = _SMALL_WEIGHT // (gates * units)
    if gates == 1 or not 1 < recurrence.xs.shape[-1] <= most_features:
        return False
    return adds_a_bias(cell, recurrence.params, recurrence.xs)


def _side_by_side(x: Array, h: Array) -> Array:
    """Returns the operand of a joined weight: the inputs, then the hidden state."""
    return jnp.concatenate([x.astype(h.dtype), h], -1)


def is_zero(tangent: Any) -> bool:
    """Returns whether a tangent is a symbolic zero, which has no array."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def instantiated(primals: Any, tangents: Any) -> Any:
    """Returns tangents with arrays of zeros in the place of symbolic zeros."""

    def leaf(primal: Array, tangent: Any) -> Any:
        return jax.custom_derivatives.zero_from_primal(primal) if is_zero(tangent) else tangent

    return jax.tree.map(leaf, primals, tangents)
