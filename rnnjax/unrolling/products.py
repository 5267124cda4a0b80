"""The products of a gated cell's steps: three ways to multiply inputs and hidden states, and the choice of one.

A gated step needs z, what its inputs are to the gates, and r, the product of its hidden state. Which of the two is made
where is all that tells the ways apart; the loop and its derivative, in `fused.py`, are the same for all of them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.backend import z_by_step
from rnnjax.cells.cell import GatedCell, Params, State, compute_dtype, recurrent_product, rows
from rnnjax.cells.traits import adds_a_bias, reads_a_sum
from rnnjax.unrolling.recurrence import Recurrence

_SMALL_WEIGHT = 2**19  # entries, 2 MiB in float32: it stays in a core's cache, and half of it is not read for nothing


class Starts(NamedTuple):
    """What every step's gates read, each leaf ``[T, *batch, ...]``: the state before it, z (None: it is in r) and r."""

    state: State
    z: Any
    r: Array


@dataclasses.dataclass(frozen=True)
class Products(ABC):
    """A way to make the products of every step; a pytree, so that derivatives are taken in its arrays.

    Attributes:
      weight: what each step multiplies by; its last rows are those of the hidden state.
    """

    makes_z: ClassVar[bool] = False  # whether the loop makes z, which the derivative then reads

    weight: Float[Array, "K G H"]

    @property
    @abstractmethod
    def dtype(self) -> jnp.dtype:
        """Type of the operands of the products."""

    @abstractmethod
    def items(self) -> Any:
        """Returns what each step of the loop is given, each leaf ``[T, *batch, ...]``."""

    def first(self) -> Any:
        """Returns what the loop carries to its first step beside the state."""
        return None

    @abstractmethod
    def step(self, cell: GatedCell, params: Params, carried: Any, item: Any, h: Array) -> tuple[Any, Array, Any]:
        """Returns one step's z and r, from its hidden state, its item and what was carried to it, and what is carried
        to the next."""

    def zs_after(self, made: Any) -> Any:
        """Returns the z of every step once the loop is over; `made` is that of a loop that makes it, else None."""
        return made

    @abstractmethod
    def tangents(self, change: Products, cell: GatedCell, params: Params, starts: Starts) -> tuple[Any, Array]:
        """Returns what a change of the products' arrays changes in every step's z and r, states being what they are.

        Where the gates read no more than z + r, the change of z is None and that of r is that of the sum, so that the
        loop backward has one gradient for both. `change` may hold symbolic zeros.
        """

    def hidden_rows(self, h: Array) -> Float[Array, "O G H"]:
        """Returns the weight of the hidden state alone."""
        return self.weight[-h.shape[-1] :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZBefore(Products):
    """z of all steps is made before the loop: any cell, and any z.

    With several gates, each step fetches z of the next: XLA's CPU compiler, which would look up every gate of every
    unit in the whole sequence, then reads them from one place.
    """

    zs: Any

    @property
    def dtype(self) -> jnp.dtype:
        return compute_dtype(self.zs)

    @property
    def _fetches_ahead(self) -> bool:
        return self.weight.shape[1] > 1

    def items(self) -> Any:
        return jax.tree.map(lambda z: jnp.roll(z, -1, 0), self.zs) if self._fetches_ahead else self.zs

    def first(self) -> Any:
        return jax.tree.map(lambda z: z[0], self.zs) if self._fetches_ahead else None

    def step(self, cell: GatedCell, params: Params, carried: Any, item: Any, h: Array) -> tuple[Any, Array, Any]:
        z, z_after = (carried, item) if self._fetches_ahead else (item, None)
        return z, recurrent_product(h, self.weight, self.dtype), z_after

    def zs_after(self, made: Any) -> Any:
        return self.zs

    def tangents(self, change: Products, cell: GatedCell, params: Params, starts: Starts) -> tuple[Any, Array]:
        assert isinstance(change, ZBefore)
        d_weight, d_zs = (instantiated(getattr(self, name), getattr(change, name)) for name in ("weight", "zs"))
        d_rs = recurrent_product(rows(starts.state.h), d_weight, self.dtype).reshape(starts.r.shape)
        if reads_a_sum(cell, params, *jax.tree.map(lambda leaf: leaf[0], starts)):
            return None, sum(jax.tree.leaves(d_zs), d_rs)
        return d_zs, d_rs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZByStep(Products):
    """z is made step by step, by a product of its own, and neither written nor read for the whole sequence before.

    The derivative is that of `ZBefore`, taken at the z that the loop has made: what changes z reaches it as a change of
    `zs`, whose values are not read.
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
        made, d_made = ZBefore(self.weight, starts.z), ZBefore(change.weight, change.zs)
        return made.tangents(d_made, cell, params, starts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joined(Products):
    """z + r is one product a step, of ``[x, 1, h]`` by ``[W_x; b; W]``: for gates that read no more than that sum."""

    xs: Float[Array, "T *B N"]  # with the ones

    @classmethod
    def of(cls, cell: GatedCell, weight: Float[Array, "O G H"], recurrence: Recurrence) -> Joined:
        """Returns the products of a recurrence whose z is ``xs @ w_x`` plus a bias."""
        params, dtype = recurrence.params, compute_dtype(recurrence.steps.z)
        bias = cell.gate_inputs(params, jnp.zeros((1, *weight.shape[1:]), dtype))
        xs = jnp.asarray(recurrence.xs, dtype)
        xs = jnp.concatenate([xs, jnp.ones_like(xs[..., :1])], -1)
        weight = jnp.concatenate([params.w_x.astype(weight.dtype), bias.astype(weight.dtype), weight])
        return cls(weight, xs)

    @property
    def dtype(self) -> jnp.dtype:
        return compute_dtype(self.xs)

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
    """Returns the way that was measured to be the fastest for a recurrence's sizes."""
    weight = cell.recurrent_weight(recurrence.params)
    if _joins(cell, weight, recurrence):
        return Joined.of(cell, weight, recurrence)
    if recurrence.xs is not None and _makes_z_by_step(cell, weight, recurrence):
        return ZByStep(weight, recurrence.steps.z, recurrence.xs)
    return ZBefore(weight, recurrence.steps.z)


def _joins(cell: GatedCell, weight: Float[Array, "O G H"], recurrence: Recurrence) -> bool:
    """Returns whether the inputs are to be multiplied in the loop, beside the hidden state.

    A single gate is read as fast from z: measured, it loses by the longer product.
    """
    xs, params, state = recurrence.xs, recurrence.params, recurrence.state
    rows_at_most = _SMALL_WEIGHT // (weight.shape[1] * weight.shape[2])
    if xs is None or weight.shape[1] == 1 or xs.shape[-1] + weight.shape[0] > rows_at_most:
        return False
    zs = jax.tree.leaves(recurrence.steps.z)
    if len(zs) != 1 or zs[0].shape[1:] != (*state.h.shape[:-1], *weight.shape[1:]):
        return False  # not the terms of a sum
    if not cell.pointwise or not adds_a_bias(cell, params, xs):
        return False
    z = jax.tree.map(lambda leaf: leaf[0], recurrence.steps.z)
    return reads_a_sum(cell, params, state, z, zs[0][0].astype(state.h.dtype))


def _makes_z_by_step(cell: GatedCell, weight: Float[Array, "O G H"], recurrence: Recurrence) -> bool:
    """Returns whether the inputs are to be projected in the loop, by a product of their own.

    So on a CPU, where z of the whole sequence is memory that every call has to map; but one input is no matrix product.
    """
    if recurrence.xs is None or not z_by_step():
        return False
    if weight.shape[1] == 1 or not 1 < recurrence.xs.shape[-1] <= _SMALL_WEIGHT // weight[0].size:
        return False
    return adds_a_bias(cell, recurrence.params, recurrence.xs)


def _side_by_side(x: Array, h: Array) -> Array:
    """Returns what a joined weight multiplies: the inputs, then the hidden state."""
    return jnp.concatenate([x.astype(h.dtype), h], -1)


def is_zero(tangent: Any) -> bool:
    """Returns whether a tangent is known to be zero without an array."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def instantiated(primals: Any, tangents: Any) -> Any:
    """Returns tangents, each leaf an array."""

    def leaf(primal: Array, tangent: Any) -> Any:
        return jax.custom_derivatives.zero_from_primal(primal) if is_zero(tangent) else tangent

    return jax.tree.map(leaf, primals, tangents)
