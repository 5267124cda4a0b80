"""The derivatives of all steps by the state before them, in the blocks of a layout."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.blocks import in_blocks
from rnnjax.cells.cell import Cell, Params, State, compute_dtype
from rnnjax.cells.gated_cell import GatedCell, recurrent_product
from rnnjax.cells.traits import fuses, keeps_units_apart
from rnnjax.unrolling.newton_layout import Layout
from rnnjax.unrolling.recurrence import Recurrence


def all_steps(recurrence: Recurrence, befores: State) -> State:
    """Returns the states after all steps, each taken from a given state before it, leaves ``[T, *batch, ...]``."""
    if not keeps_units_apart(recurrence.cell):
        return jax.vmap(lambda before, step: recurrence.step(before, step)[0])(befores, recurrence.steps)
    # The step of such a cell takes any leading axes, and can see that the gradient of a weight is one sum.
    if recurrence.steps.resets is not None:
        initial = jax.tree.map(lambda leaf, like: jnp.broadcast_to(leaf, like.shape), recurrence.initial, befores)
        recurrence = recurrence._replace(initial=initial)
    return recurrence.step(befores, recurrence.steps)[0]


def jacobians(recurrence: Recurrence, layout: Layout, befores: State) -> Float[Array, "T D D *B N"]:
    """Returns the derivatives of all steps, without what one block reads of another.

    Args:
      recurrence: the recurrence.
      layout: the blocks.
      befores: the states before all steps, each leaf ``[T, *batch, ...]``.
    """
    if layout.blocks == "dense":
        return _dense(recurrence, layout, befores)
    if keeps_units_apart(recurrence.cell):
        return _by_leaf(recurrence, layout, befores)
    if fuses(recurrence.cell) and recurrence.cell.pointwise:
        return _by_leaf(recurrence._replace(cell=_WithOwnUnits(recurrence.cell)), layout, befores)
    return _by_number(recurrence, layout, befores)


def _by_leaf(recurrence: Recurrence, layout: Layout, befores: State) -> Float[Array, "T D D *B N"]:
    """Returns the derivatives of a cell whose units do not read each other: one directional derivative for a leaf."""
    leaves, tree = jax.tree.flatten(befores)
    zeros = [jnp.zeros_like(leaf) for leaf in leaves]
    changes = []
    for place, leaf in enumerate(leaves):
        direction = jax.tree.unflatten(tree, [*zeros[:place], jnp.ones_like(leaf), *zeros[place + 1 :]])
        changes.append(_along(recurrence, befores, direction))
    if layout.blocks == "block":
        return jnp.stack([layout.pack(change) for change in changes], 2)
    own = [jax.tree.leaves(change)[place] for place, change in enumerate(changes)]
    return layout.pack(jax.tree.unflatten(tree, own))[:, :, None]


def _dense(recurrence: Recurrence, layout: Layout, befores: State) -> Float[Array, "T D D *B N"]:
    """Returns whole derivatives: one directional derivative for each number of the state."""
    numbers = layout.pack(befores)
    basis = jnp.eye(layout.width, dtype=numbers.dtype)

    def column(unit: Array) -> Array:
        direction = jnp.broadcast_to(unit.reshape(-1, *[1] * (numbers.ndim - 2)), numbers.shape)
        return layout.pack(_along(recurrence, befores, layout.unpack(direction)))

    return jax.vmap(column, out_axes=2)(basis)


def _by_number(recurrence: Recurrence, layout: Layout, befores: State) -> Float[Array, "T D D *B N"]:
    """Returns the blocks on the diagonal of any cell's derivatives, one block of all steps after another."""
    numbers = layout.pack(befores)

    def block(place: Array) -> Array:
        here = (jnp.arange(numbers.shape[-1]) == place).astype(numbers.dtype)

        def column(unit: Array) -> Array:
            direction = jnp.broadcast_to(unit.reshape(-1, *[1] * (numbers.ndim - 2)) * here, numbers.shape)
            change = layout.pack(_along(recurrence, befores, layout.unpack(direction)))
            return jax.lax.dynamic_index_in_dim(change, place, change.ndim - 1, keepdims=False)

        return jnp.stack([column(unit) for unit in jnp.eye(layout.width, dtype=numbers.dtype)], 2)

    # One after another: all at once would need as much memory as the whole derivatives.
    blocks = jax.lax.map(block, jnp.arange(numbers.shape[-1]))
    return jnp.moveaxis(blocks, 0, -1)


def _along(recurrence: Recurrence, befores: State, direction: State) -> State:
    """Returns how the states after all steps change with those before, which change in a direction."""
    steps: Callable[[State], State] = lambda befores: all_steps(recurrence, befores)  # noqa: E731
    return jax.jvp(steps, (befores,), (direction,))[1]


@dataclasses.dataclass(frozen=True)
class _WithOwnUnits(Cell):
    """A gated cell whose derivative has only what each unit reads of itself; its values are the cell's."""

    cell: GatedCell

    output_size = property(lambda self: self.cell.output_size)

    def init(self, key: Any, input_size: Any) -> Params:
        return self.cell.init(key, input_size)

    def initial_state(self, batch_size: Any, dtype: Any = jnp.float32) -> State:
        return self.cell.initial_state(batch_size, dtype)

    def inputs(self, params: Params, xs: Array, *, key: Any = None) -> Any:
        return self.cell.inputs(params, xs, key=key)

    def step(self, params: Params, state: State, z: Any) -> tuple[State, Array]:
        weight, h = self.cell.recurrent_weight(params), state.h
        constant = jax.lax.stop_gradient(h)
        r = recurrent_product(constant, weight, compute_dtype(z))
        own = (h - constant)[..., None, :] * _own_weights(weight).astype(h.dtype)
        new = self.cell.gates(params, state, z, r + own)
        return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state), h


def _own_weights(weight: Float[Array, "..."]) -> Float[Array, "G H"]:
    """Returns what each hidden unit's gates multiply its own state by."""
    if not in_blocks(weight):
        return jnp.diagonal(weight, axis1=0, axis2=2)
    of_heads = jnp.diagonal(weight, axis1=1, axis2=3)  # [N, G, K]
    return jnp.moveaxis(of_heads, 0, 1).reshape(weight.shape[2], -1)
