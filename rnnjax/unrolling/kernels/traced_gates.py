"""The gates of one hidden unit and their derivative, traced once for all units.

A cell's `gates` are written for arrays ``[..., G, H]``, but a kernel holds each gate of its units in an array of its
own, a tile ``[rows, units]``. Pointwise gates treat every unit alike, so that tracing them for H = 1 is enough: without
its last axis every traced array is small, and `pointwise` evaluates it on tiles.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from rnnjax.cells.cell import Params, State
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.errors import first_line
from rnnjax.unrolling.kernels.layout import one_unit
from rnnjax.unrolling.kernels.pointwise import Pointwise
from rnnjax.unrolling.recurrence import Recurrence


@dataclasses.dataclass(frozen=True)
class Gates:
    """A cell's gates and their derivative for one hidden unit.

    Attributes:
      forward: takes the leaves of the parameters that the gates read, of the state and of z, and r; returns the leaves
        of the new state.
      backward: takes the same and the gradients of the leaves of the new state; returns the gradients of the former.
      reads_params: for each leaf of the parameters, whether the gates read it.
      summed: whether z is one array that has the same gradient as r, as where gates read z + r only.
    """

    forward: Pointwise
    backward: Pointwise
    reads_params: tuple[bool, ...]
    summed: bool

    def rewritten(self, operations: Mapping[str, Callable[..., Any]]) -> Gates:
        """Returns the same with primitives in terms of others, as in `Pointwise.rewritten`."""
        forward, backward = self.forward.rewritten(operations), self.backward.rewritten(operations)
        return dataclasses.replace(self, forward=forward, backward=backward)


def gates_of(recurrence: Recurrence) -> Gates:
    """Returns the gates of a gated cell's recurrence, whose recurrent weight is not in blocks, for one hidden unit.

    Raises:
      NotImplementedError: as `traced`.
    """
    cell: Any = recurrence.cell
    state, batch_axes = recurrence.state, recurrence.state.h.ndim - 1

    def of_one_sequence(tree: Any, axes: int) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), tree)

    weight = jax.eval_shape(cell.recurrent_weight, recurrence.params)
    return traced(
        cell,
        of_one_sequence(recurrence.params, 0),
        of_one_sequence(state, batch_axes),
        of_one_sequence(recurrence.steps.z, batch_axes + 1),  # the first is time
        jax.ShapeDtypeStruct(weight.shape[1:], state.h.dtype),
    )


def with_one_unit(cell: Any) -> Any:
    """Returns a cell with one hidden unit, since a step may read the cell's own size.

    Raises:
      NotImplementedError: for a cell of which there is none.
    """
    try:
        return dataclasses.replace(cell, hidden_size=1)
    except Exception as error:  # whatever a class of one's own refuses its sizes by
        raise NotImplementedError(f"its step is traced for one hidden unit, but {first_line(error)}") from error


def traced(
    cell: GatedCell,
    params: Params,
    state: State,
    zs: PyTree[Shaped[jax.ShapeDtypeStruct, "..."]],
    r: Float[jax.ShapeDtypeStruct, "G H"],
) -> Gates:
    """Traces the gates of a cell for one hidden unit.

    Args:
      cell: a cell whose gates are pointwise.
      params: its parameters, or their shapes and types.
      state: shapes and types of its state, without batch axes.
      zs: shapes and types of what `inputs` returns, of one step and without batch axes.
      r: shape and type of the product of the hidden state, likewise.

    Raises:
      NotImplementedError: as `with_one_unit`; when evaluated, if the gates use an operation that is not known to be
        pointwise.
    """
    size = r.shape[-1]
    cell = with_one_unit(cell)
    leaves, tree = jax.tree.flatten(params)
    leaves, state, zs, r = jax.tree.map(lambda leaf: one_unit(leaf, size), (leaves, state, zs, r))
    state, structure = jax.tree.flatten(state)

    def new_state(params, state, zs, r):
        new = cell.gates(tree.unflatten(params), structure.unflatten(state), zs, r)
        return [new.astype(old.dtype) for new, old in zip(jax.tree.leaves(new), state)]

    read, forward, backward = with_gradients(new_state, leaves, state, zs, r)
    # The last two gradients are those of the one leaf of z, and of r.
    summed = len(jax.tree.leaves(zs)) == 1 and backward.alike(-2, -1)
    return Gates(forward, backward, read, summed)


def with_gradients(
    new_state: Callable[..., list[Any]], leaves: list[Any], state: list[Any], *others: Any
) -> tuple[tuple[bool, ...], Pointwise, Pointwise]:
    """Traces a step and its derivative.

    Args:
      new_state: takes what follows and returns the leaves of the new state.
      leaves: arrays of which the step may read some only, or their shapes and types.
      state: the leaves of the state, likewise.
      *others: what else it takes, likewise.

    Returns:
      Which of the leaves the step reads; the step, of these leaves alone, of the state and the others; and its
      derivative, which takes the gradients of the new state in addition.

    Raises:
      NotImplementedError: if a step of one unit cannot be traced or differentiated.
    """
    try:
        return _with_gradients(new_state, leaves, state, *others)
    except NotImplementedError:
        raise
    except Exception as error:  # whatever a cell of one's own does
        raise NotImplementedError(
            f"its step and derivative are traced for one hidden unit, and that fails: {first_line(error)} (arrays that "
            "it reads must be among its parameters)"
        ) from error


def _with_gradients(
    new_state: Callable[..., list[Any]], leaves: list[Any], state: list[Any], *others: Any
) -> tuple[tuple[bool, ...], Pointwise, Pointwise]:
    # Traced twice: kernels load only what a step reads, which the first trace shows.
    reads = Pointwise(new_state, leaves, state, *others).reads[: len(leaves)]
    leaves_read = [leaf for leaf, is_read in zip(leaves, reads) if is_read]

    def step(leaves_read, *rest):
        remaining = iter(leaves_read)
        # Any value will do for what is not read.
        every = [
            next(remaining) if is_read else jnp.zeros(leaf.shape, leaf.dtype) for leaf, is_read in zip(leaves, reads)
        ]
        return new_state(every, *rest)

    def gradients(leaves_read, *rest):
        *rest, d_new = rest
        return jax.vjp(step, leaves_read, *rest)[1](d_new)

    arguments = (leaves_read, state, *others)
    return reads, Pointwise(step, *arguments), Pointwise(gradients, *arguments, state)


def by_unit(leaf: Shaped[Array, "*N"], size: int, batch_axes: int = 0) -> Shaped[Array, "*M n H"]:
    """Returns an array as ``[*batch, n, H]``, with the n entries that each hidden unit has of it.

    Args:
      leaf: an array ``[*batch, ...]``. If its last axis is that of the hidden units, each unit has its own entries;
        otherwise every unit has the whole array.
      size: number H of hidden units.
      batch_axes: number of axes in front that are left as they are.
    """
    batch = leaf.shape[:batch_axes]
    if leaf.shape[batch_axes:][-1:] == (size,):
        return leaf.reshape(*batch, -1, size)
    return jnp.broadcast_to(leaf.reshape(*batch, -1, 1), (*batch, math.prod(leaf.shape[batch_axes:]), size))
