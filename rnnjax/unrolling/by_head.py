"""A recurrence in heads, taken apart into one for each head, which kernels run side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from rnnjax.cells.blocks import gates_and_units, heads_of, in_blocks
from rnnjax.cells.cell import Params, State
from rnnjax.unrolling.recurrence import Recurrence


class _Heads(NamedTuple):
    """The arrays of a recurrence that heads have parts of, each leaf ``[N, ...]``."""

    params: Params
    state: State
    initial: State
    z: Any


def number_of_heads(recurrence: Recurrence) -> int:
    """Returns the number of heads of a gated cell's recurrence; 1 where its recurrent weight is not in blocks."""
    return heads_of(_weight(recurrence))


def of_one_head(recurrence: Recurrence) -> Recurrence:
    """Returns one head's recurrence, as shapes; where the recurrent weight is not in blocks, the recurrence itself."""
    if not in_blocks(_weight(recurrence)):
        return recurrence
    heads = jax.eval_shape(lambda parts: _taken_apart(recurrence, parts), _parts(recurrence))
    return _of_head(recurrence, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), heads))


def run_by_head(
    run: Callable[[Recurrence], tuple[Array, State]], recurrence: Recurrence
) -> tuple[Float[Array, "T *B H"], State]:
    """Returns what ``run(recurrence)`` returns, by a run of each head's recurrence: `jax.vmap` makes one of all.

    Where the recurrent weight is not in blocks, that is ``run(recurrence)`` itself.
    """
    if not in_blocks(_weight(recurrence)):
        return run(recurrence)
    heads = _taken_apart(recurrence, _parts(recurrence))
    return jax.tree.map(_joined, jax.vmap(lambda head: run(_of_head(recurrence, head)))(heads))


def _weight(recurrence: Recurrence) -> Float[jax.ShapeDtypeStruct, "..."]:
    cell: Any = recurrence.cell
    return jax.eval_shape(cell.recurrent_weight, recurrence.params)


def _parts(recurrence: Recurrence) -> _Heads:
    """Returns the arrays that heads have parts of, not yet taken apart."""
    return _Heads(recurrence.params, recurrence.state, recurrence.initial, recurrence.steps.z)


def _taken_apart(recurrence: Recurrence, parts: _Heads) -> _Heads:
    """Returns the parts of all heads: of an array whose last axis is that of hidden units, a head has its units' part.

    Every head has the whole of other arrays, and its block of the recurrent weight.
    """
    weight = _weight(recurrence)
    heads, hidden = heads_of(weight), gates_and_units(weight)[1]

    def split(leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        if leaf.shape[-1:] != (hidden,):
            return jnp.broadcast_to(leaf, (heads, *leaf.shape))
        return jnp.moveaxis(leaf.reshape(*leaf.shape[:-1], heads, hidden // heads), -2, 0)

    rest: Any = jax.tree.map(split, parts._replace(params=parts.params._replace(w_h=None)))
    return rest._replace(params=rest.params._replace(w_h=parts.params.w_h))


def _of_head(recurrence: Recurrence, head: _Heads) -> Recurrence:
    """Returns the recurrence of one head, from its parts."""
    cell: Any = recurrence.cell
    cell = dataclasses.replace(cell, hidden_size=_weight(recurrence).shape[-1])
    steps = recurrence.steps._replace(z=head.z)
    return recurrence._replace(
        cell=cell, params=head.params, state=head.state, initial=head.initial, steps=steps, xs=None
    )


def _joined(heads: Float[Array, "N *B K"]) -> Float[Array, "*B H"]:
    """Returns the parts of all heads side by side."""
    parts = jnp.moveaxis(heads, 0, -2)
    return parts.reshape(*parts.shape[:-2], parts.shape[-2] * parts.shape[-1])
