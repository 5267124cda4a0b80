"""Unrolling of memory cells in chunks of time, as products of matrices: the chunkwise form of linear attention."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnnjax.cells.cell import State, compute_dtype
from rnnjax.cells.hidden_cell import HiddenState
from rnnjax.cells.memory_cell import Association, association_like
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import has_memory
from rnnjax.unrolling.cutting import nan_up_to_reset
from rnnjax.unrolling.instead import methods_for, why_not_together
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.selecting import all_finite, zeros_where

_SIZE = 64
_SIZE_BY_ROW = 16  # where each row of the matrix decays by itself, and each pair of steps has K factors


@dataclasses.dataclass(frozen=True)
class Chunkwise(Method):
    """The recurrence of a memory cell, C steps at once: products of matrices within a chunk, one state between chunks.

    With L the sums of log_decay, in a chunk that begins with S, and for steps j <= i of it:

        (1 + tril(rate_i exp(L_i - L_j) k_i . k_j, -1)) U = rate (V - exp(L) K S)         U = V without a rate
        y_i = exp(L_i) q_i S + sum_j exp(L_i - L_j) (q_i . k_j) u_j
        S' = exp(L_C) S + sum_j exp(L_C - L_j) k_j u_j^T

    (Yang et al., 2024, "Parallelizing linear transformers with the delta rule"; Yang, Kautz and Hatamizadeh, 2025). A
    loop over the T / C chunks computes S alone; all else is done for all chunks at once. The backward pass keeps T / C
    states in the place of T. Steps past a length, missing ones and resets are made part of the decays. What is not
    finite makes its whole chunk so, the steps before it too; a memory that overflows before a reset is NaN after it.

    Attributes:
      size: number C of steps; None: 64, or 16 where every row of the matrix decays by itself.

    Raises:
      ValueError: for a size below 1; when it runs, for a cell that is no `MemoryCell` or overrides its step.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.GatedDeltaNet(8, heads=2)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)), method=rnnjax.Chunkwise(size=4))
      >>> ys.shape, state.h.shape
      ((2, 5, 8), (2, 2, 4, 4))
    """

    size: int | None = None

    def __post_init__(self):
        keep_sizes(self, optional=("size",))

    def why_not(self, recurrence: Recurrence) -> str | None:
        cell, name = recurrence.cell, type(recurrence.cell).__name__
        if not has_memory(cell):
            return (
                f"Chunkwise() takes memory cells whose step is MemoryCell's, and {name} is not one here; use "
                f"{methods_for(cell)}, or Auto(), which chooses a method for each layer"
            )
        if not isinstance(recurrence.length, int):
            return f"Chunkwise() cuts a number of steps that is known, got {recurrence.length}; use Scan()"
        return why_not_together(self, recurrence)

    def run(self, recurrence: Recurrence) -> tuple[Array, State]:
        association, bad = _written(recurrence)
        by_row = association.log_decay is not None and association.log_decay.shape[-1] > 1
        size = min(self.size or (_SIZE_BY_ROW if by_row else _SIZE), recurrence.length)
        resets, initial = recurrence.steps.resets, recurrence.initial
        chunks = _chunks(association, resets, size)
        ys, last = _unrolled(chunks, recurrence.state.h, None if initial is None else initial.h)
        ys = _joined(ys, recurrence.length).astype(compute_dtype(recurrence.steps.z))
        if bad is not None and resets is not None:
            ys = nan_up_to_reset(ys, bad, resets)
        return ys, HiddenState(last)


def _written(recurrence: Recurrence) -> tuple[Association, Array | None]:
    """Returns what all steps write and read, and which of them are lost to a reset; missing ones write nothing.

    Those that are lost, as what they write is not finite, write what z = 0 does.
    """
    cell: Any = recurrence.cell
    zs, valid, _, followed = recurrence.steps
    bad = None
    if followed is not None:
        found = association_like(cell, recurrence.params, zs, recurrence.state)
        bad = followed & ~all_finite(found, followed.ndim)
        zs = zeros_where(bad, zs)
    found = association_like(cell, recurrence.params, zs, recurrence.state)
    if valid is not None:
        found = zeros_where(~valid, found)
    return found, bad


class Chunk(NamedTuple):
    """What the steps of chunks write and read: the fields of `Association` and resets, ``[N, *batch, n, C, ...]``."""

    query: Float[Array, "*N C K"]
    key: Float[Array, "*N C K"]
    value: Float[Array, "*N C V"]
    log_decay: Float[Array, "*N C D"] | None
    rate: Float[Array, "*N C 1"] | None
    resets: Any


def _unrolled(chunks: Chunk, state: Float[Array, "*B n K V"], initial: Array | None) -> tuple[Array, Array]:
    """Returns ``y [N, *batch, n, C, V]`` of chunks, and the matrices after the last.

    Args:
      chunks: what their steps write and read.
      state: the matrices before the first step.
      initial: those that resets go back to; None without resets.
    """
    factors = _factors(chunks)
    # What a step reads of the matrices with which its chunk begins, and of those that a reset puts in their place.
    reading = chunks.key * factors.begin, chunks.query * factors.begin
    found, fetched = 0.0, 0.0
    if initial is not None:
        found, fetched = (chunks.key * factors.reset) @ initial, (chunks.query * factors.reset) @ initial
    writing = chunks.key * factors.end  # [..., C, K]
    from_reset = 0.0 if initial is None else factors.last_reset * initial
    if chunks.rate is None:
        fixed, by_state = chunks.value, None
    else:
        weights = chunks.rate * jnp.tril(_products(chunks.key, chunks.key, factors.pairs), -1)
        inverse = _inverse(weights)
        fixed, by_state = inverse @ (chunks.rate * (chunks.value - found)), inverse @ (chunks.rate * reading[0])
    added = jnp.einsum("...ck,...cv->...kv", writing, fixed) + from_reset

    def next_state(matrices: Array, chunk: Any) -> tuple[Array, Array]:
        kept, added, written, by_state = chunk
        after = kept * matrices + added
        if by_state is not None:
            after -= jnp.einsum("...ck,...cv->...kv", written, by_state @ matrices)
        return after, matrices

    per_chunk = factors.last, jnp.broadcast_to(added, (len(added), *state.shape)), writing, by_state
    last, begins = jax.lax.scan(next_state, state, per_chunk)
    written = fixed if by_state is None else fixed - by_state @ begins
    seen = _products(chunks.query, chunks.key, factors.pairs)
    return reading[1] @ begins + fetched + seen @ written, last


class _Factors(NamedTuple):
    """By what is multiplied what steps read and write; D is 1, or K where every row decays by itself.

    Attributes:
      pairs: what step j wrote, when step i reads, ``[..., C, C, D]``; zero for j > i.
      begin: the matrices with which a chunk begins, when step i reads, ``[..., C, D]``.
      end: what step j wrote, after the chunk, ``[..., C, D]``.
      last: the matrices with which a chunk begins, after it, ``[..., D, 1]``.
      reset: the initial matrices, when step i reads, likewise; 0 without resets.
      last_reset: the initial matrices, after the chunk, ``[..., D, 1]``.
    """

    pairs: Array
    begin: Array
    end: Array
    last: Array
    reset: Any = 0.0
    last_reset: Any = 0.0


def _factors(chunks: Chunk) -> _Factors:
    """Returns the factors of chunks, from sums of logarithms, in which a reset is one of zero, minus infinity.

    Of each pair of steps those between them are added up by themselves: a difference of sums from the beginning on
    would be inexact after a strong decay, and no number after minus infinity.
    """
    decays = chunks.log_decay
    if decays is None:
        decays = jnp.zeros((*chunks.key.shape[:-1], 1), chunks.key.dtype)
    cut = decays if chunks.resets is None else jnp.where(chunks.resets, -jnp.inf, decays)
    size = decays.shape[-2]
    after = jnp.tril(jnp.ones((size, size), bool), -1)[..., None]  # [i, j, 1]: whether step i comes after step j
    between = jnp.cumsum(jnp.where(after, cut[..., :, None, :], 0), -3)
    pairs = jnp.where(after | jnp.eye(size, dtype=bool)[..., None], jnp.exp(between), 0)
    begin = jnp.exp(jnp.cumsum(cut, -2))
    plain = _Factors(pairs, begin, pairs[..., -1, :, :], begin[..., -1, :, None])
    if chunks.resets is None:
        return plain
    reset = (pairs * jnp.where(chunks.resets, jnp.exp(decays), 0)[..., None, :, :]).sum(-2)
    return plain._replace(reset=reset, last_reset=reset[..., -1, :, None])


def _products(
    one: Float[Array, "*N C K"], other: Float[Array, "*N C K"], factors: Float[Array, "*N C C D"]
) -> Float[Array, "*N C C"]:
    """Returns the products of all pairs of steps, with the factors of each row of the matrix or of all of them."""
    if factors.shape[-1] == 1:
        return (one @ jnp.swapaxes(other, -1, -2)) * factors[..., 0]
    return jnp.einsum("...ik,...jk,...ijk->...ij", one, other, factors)


def _inverse(weights: Float[Array, "*N C C"]) -> Float[Array, "*N C C"]:
    """Returns ``(1 + weights)^-1`` for weights that are zero but below the diagonal, by products of its blocks.

    Of twice as many rows it is ``[[P, 0], [-Q W P, Q]]``, where P and Q are the inverses of the blocks on the diagonal
    and W is the weights below the first. It is no triangular solve of LAPACK's, of which two at a time can wait for
    each other forever on a CPU of two cores (seen with jaxlib 0.10.2).
    """
    size = weights.shape[-1]
    rows = 2 ** (size - 1).bit_length()
    filled = jnp.pad(weights, [(0, 0)] * (weights.ndim - 2) + [(0, rows - size)] * 2)
    inverse = jnp.ones((*weights.shape[:-2], rows, 1, 1), weights.dtype)  # of every block of one row
    while inverse.shape[-1] < rows:
        width = inverse.shape[-1]
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        below = filled.reshape(*weights.shape[:-2], -1, 2, width, rows // (2 * width), 2, width)
        below = jnp.moveaxis(jnp.diagonal(below[..., :, 1, :, :, 0, :], axis1=-4, axis2=-2), -1, -3)
        corner = -_exact(_exact(second, below), first)
        rows_of_blocks = [first, jnp.zeros_like(first)], [corner, second]
        inverse = jnp.concatenate([jnp.concatenate(row, -1) for row in rows_of_blocks], -2)
    return inverse[..., 0, :size, :size]


def _exact(one: Array, other: Array) -> Array:
    """Returns a product whose factors a GPU does not round, since errors grow with every product of an inverse."""
    return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)


def _chunks(association: Association, resets: Array | None, size: int) -> Chunk:
    """Returns what the steps of chunks write and read; the last chunk is filled up with steps that write nothing."""

    def cut(steps: Array) -> Array:
        """Returns ``[T, *batch, n, X]`` as ``[N, *batch, n, C, X]``."""
        filled = jnp.pad(steps, [(0, -len(steps) % size)] + [(0, 0)] * (steps.ndim - 1))
        return jnp.moveaxis(filled.reshape(-1, size, *steps.shape[1:]), 1, -2)

    rate = None if association.rate is None else association.rate[..., None]
    resets = None if resets is None else resets[..., None, None]
    return Chunk(*jax.tree.map(cut, (*association._replace(rate=rate), resets)))


def _joined(ys: Float[Array, "N *B n C V"], length: int) -> Float[Array, "T *B H"]:
    """Returns the outputs of chunks in one sequence, all heads one behind the other."""
    ys = jnp.moveaxis(ys, -2, 1)
    ys = ys.reshape(-1, *ys.shape[2:])[:length]
    return ys.reshape(*ys.shape[:-2], -1)
