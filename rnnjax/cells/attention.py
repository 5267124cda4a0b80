"""Cells that look at another sequence, their memory, at every step.

A cell's parameters are what its steps share, and so is the memory: `attending` puts it among them. What the steps need
of it (the keys of the scores) is computed there, once, before the steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rnnjax.cells.cell import Cell, GatedCell, Key, Params, State, compute_dtype
from rnnjax.cells.initializers import gate_kernels, initializer
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import attends, is_gated
from rnnjax.cells.tree import with_last
from rnnjax.cells.wrapper import Wrapper

SCORES = ("additive", "dot", "general", "concat")


class ScoreParams(NamedTuple):
    """Parameters of a score, None where it has none: ``w_query [Q, A]``, ``w_memory [M, A]``, ``v [A]``."""

    w_query: Array | None
    w_memory: Array | None
    v: Array | None


class Memory(NamedTuple):
    """What is attended to: its steps ``values [*batch, S, M]``, their ``keys [*batch, S, A]``, and which are valid."""

    values: Array
    keys: Array
    mask: Array


def init_score(score: str, key: PRNGKeyArray, query_size: int, memory_size: int, dtype: DTypeLike) -> ScoreParams:
    """Returns fresh parameters of a score of queries q and steps m of the memory.

    additive, concat: v . tanh(W_q q + W_m m)      (Bahdanau et al., 2015; Luong et al., 2015, write W [q; m])
    general:          q . W_m m                    (Luong et al., 2015)
    dot:              q . m                        (Luong et al., 2015)

    Raises:
      ValueError: for another score, or a dot product of different sizes.
    """
    check_score(score, query_size, memory_size)
    k_query, k_memory, k_v = jax.random.split(key, 3)
    kernel = initializer("glorot_uniform")
    w_query = kernel(k_query, (query_size, query_size), dtype) if score in ("additive", "concat") else None
    w_memory = None if score == "dot" else kernel(k_memory, (memory_size, query_size), dtype)
    v = kernel(k_v, (query_size, 1), dtype)[:, 0] if w_query is not None else None
    return ScoreParams(w_query, w_memory, v)


def check_score(score: str, query_size: int, memory_size: int) -> None:
    """Raises unless `score` is one that can be taken of queries and memory of these sizes."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    if score == "dot" and query_size != memory_size:
        raise ValueError(
            f'score "dot" needs a memory of the query\'s size {query_size}, got {memory_size}; take "general"'
        )


def remember(params: ScoreParams, values: Float[Array, "*B S M"], lengths: Int[Array, " *B"] | None = None) -> Memory:
    """Returns a memory with its keys; nothing in its padding, NaN included, changes a value or a gradient."""
    mask = jnp.ones(values.shape[:-1], bool)
    if lengths is not None:
        mask = jnp.arange(values.shape[-2]) < lengths[..., None]
        values = jnp.where(mask[..., None], values, 0)
    keys = values if params.w_memory is None else jnp.tensordot(values, params.w_memory.astype(values.dtype), 1)
    return Memory(values, keys, mask)


def attend(
    params: ScoreParams, memory: Memory, query: Float[Array, "*B Q"]
) -> tuple[Float[Array, "*B M"], Float[Array, "*B S"]]:
    """Returns the context, the memory's mean by the softmax of its scores, and those weights, in float32.

    Weights over padding are exactly zero, and all are where nothing is valid. Batch axes are broadcast: a beam or
    all the steps of a decoder can look at the same memory.
    """
    query = query.astype(memory.keys.dtype)
    if params.w_query is None or params.v is None:
        scores = jnp.einsum("...a,...sa->...s", query, memory.keys)
    else:
        hidden = jnp.tanh(jnp.tensordot(query, params.w_query.astype(query.dtype), 1)[..., None, :] + memory.keys)
        scores = jnp.tensordot(hidden, params.v.astype(query.dtype), 1)
    weights = masked_softmax(scores.astype(jnp.float32), memory.mask)
    return jnp.einsum("...s,...sm->...m", weights.astype(memory.values.dtype), memory.values), weights


def masked_softmax(scores: Float[Array, "*B S"], mask: Bool[Array, "*B S"]) -> Float[Array, "*B S"]:
    """Returns the softmax over the last axis among the entries where `mask` holds, zero elsewhere."""
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    likelihood = jnp.where(mask, jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))), 0)
    total = likelihood.sum(-1, keepdims=True)
    return likelihood / jnp.where(total > 0, total, 1)


class AttentionParams(NamedTuple):
    """Parameters of the cell inside, of the score, of what enters the cell's gates, and of the output.

    ``w_in [A or M, G, H]`` is None where nothing does; ``w_out [H + M, A]``.
    """

    cell: Any
    score: ScoreParams
    w_in: Any
    w_out: Array


class Attending(NamedTuple):
    """The same together with the memory that the steps attend to."""

    cell: Any
    score: ScoreParams
    w_in: Any
    w_out: Array
    memory: Memory

    def of_init(self) -> AttentionParams:
        """Returns what `init` made of it."""
        return AttentionParams(*self[:-1])


def attending(params: Params, memory: Float[Array, "*B S M"], lengths: Int[Array, " *B"] | None = None) -> Params:
    """Returns a cell's parameters with every attention cell in it, however deep, attending to `memory`.

    Args:
      params: parameters of an attention cell, or of cells made of it; others are returned as they are.
      memory: the sequences attended to, such as an encoder's outputs.
      lengths: valid steps of each; None: all.
    """

    def attend_to(part: Any) -> Any:
        if isinstance(part, AttentionParams):
            return Attending(*part, remember(part.score, memory, lengths))
        return part

    return jax.tree.map(attend_to, params, is_leaf=lambda part: isinstance(part, AttentionParams))


@dataclasses.dataclass(frozen=True)
class AttentionCell(Wrapper):
    """What the cells with attention share: a gated cell, a score, and the output, after Luong et al. (2015),

    y = tanh(W_out [h; context])

    Its parameters must be given a memory by `attending` before it takes a step.

    Attributes:
      cell: a gated cell.
      memory_size: number M of features of the memory.
      score: "additive", "dot", "general" or "concat", as in `init_score`.
      size: number A of outputs; None takes the cell's.

    Raises:
      TypeError: for a cell that is not gated; ValueError: as `init_score`.
    """

    cell: GatedCell
    memory_size: int
    _: dataclasses.KW_ONLY
    score: str = "additive"
    size: int | None = None

    def __post_init__(self):
        if not is_gated(self.cell):
            raise TypeError(
                f"{type(self).__name__} needs a gated cell, whose gates the context can enter, got {self.cell!r}; "
                "put other cells around it"
            )
        keep_sizes(self, "memory_size", optional=("size",))
        check_score(self.score, self.cell.output_size, self.memory_size)

    @property
    def output_size(self) -> int:
        return self.cell.output_size if self.size is None else self.size

    def entering_size(self) -> int:
        """Returns the number of features that enter the cell's gates at a step besides its input, 0 for none."""
        raise NotImplementedError

    def init(self, key: PRNGKeyArray, input_size: int) -> AttentionParams:
        k_cell, k_score, k_in, k_out = jax.random.split(key, 4)
        inner, size, dtype = self.cell.init(k_cell, input_size), self.cell.output_size, self.cell.param_dtype
        w_in = None
        if self.entering_size():
            _, gates, hidden = jax.eval_shape(lambda: self.cell.inputs(inner, jnp.zeros((1, input_size)))).shape
            w_in = gate_kernels(self.cell.kernel_init, k_in, self.entering_size(), gates, hidden, dtype)
        w_out = initializer("glorot_uniform")(k_out, (size + self.memory_size, self.output_size), dtype)
        return AttentionParams(inner, init_score(self.score, k_score, size, self.memory_size, dtype), w_in, w_out)

    def inner(self, params: AttentionParams | Attending) -> Params:
        return params.cell

    def before(self, params: Attending, xs: Array, drawn: Any) -> Array:
        check_attending(params)
        return xs

    def enter(self, params: Attending, z: Array, feature: Array) -> Array:
        """Returns ``z`` as if `feature` had been given beside the input."""
        return z + self.cell.project(params.w_in, feature.astype(z.dtype))

    def combine(self, params: Attending, h: Array, context: Array) -> Array:
        """Returns the output for the cell's and the context."""
        both = jnp.concatenate([h, context.astype(h.dtype)], axis=-1)
        return jnp.tanh(jnp.tensordot(both, params.w_out.astype(h.dtype), 1))

    def alignment(self, params: Attending, before: State, after: State) -> Float[Array, "*B S"]:
        """Returns the weights over the memory in the step from one state to another."""
        raise NotImplementedError


def check_attending(params: Any) -> None:
    """Raises unless an attention cell's parameters have been given a memory."""
    if not isinstance(params, Attending):
        raise ValueError("this cell attends to nothing yet; give it a memory: attending(params, memory, lengths)")


@dataclasses.dataclass(frozen=True)
class Bahdanau(AttentionCell):
    """Attention from the state before the step, whose context enters the step (Bahdanau et al., 2015).

    context = attend(h, memory);  h' = cell(h, [x; context]);  y = tanh(W_out [h'; context])

    The product with W_out is taken after time, for all steps at once.
    """

    def entering_size(self) -> int:
        return self.memory_size

    def step(self, params: Attending, state: State, z: Any) -> tuple[State, Array]:
        context, _ = attend(params.score, params.memory, state.h)
        state, h = self.cell.step(params.cell, state, self.enter(params, z, context))
        h = self.cell.outputs(params.cell, h)
        return state, jnp.concatenate([h, context.astype(h.dtype)], axis=-1)

    def outputs(self, params: Attending, ys: Array) -> Array:
        h, context = jnp.split(ys, [self.cell.output_size], axis=-1)
        return self.combine(params, h, context)

    def alignment(self, params: Attending, before: State, after: State) -> Array:
        return attend(params.score, params.memory, before.h)[1]


class FeedingState(NamedTuple):
    """State of a cell that is fed its own last output: the inner cell's state, and ``output [*batch, A]``."""

    cell: Any
    output: Array


@dataclasses.dataclass(frozen=True)
class Luong(AttentionCell):
    """Attention from the state after the step (Luong et al., 2015).

    h' = cell(h, [x; y]);  context = attend(h', memory);  y' = tanh(W_out [h'; context])

    Attributes:
      input_feeding: whether the last output y enters the step. Without it no step needs attention, which is taken
        after time, for all steps at once.
    """

    score: str = "general"
    input_feeding: bool = True

    def entering_size(self) -> int:
        return self.output_size if self.input_feeding else 0

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        state = self.cell.initial_state(batch_size, dtype)
        return (
            FeedingState(state, self.cell.zeros(batch_size, self.output_size, dtype)) if self.input_feeding else state
        )

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        return self.initial_state(batch_size, dtype)

    def in_time(self, key: Key) -> bool:
        return self.input_feeding

    def step(self, params: Attending, state: State, z: Any) -> tuple[State, Array]:
        if not self.input_feeding:
            return super().step(params, state, z)
        inner, h = self.cell.step(params.cell, state.cell, self.enter(params, z, state.output))
        y = self.after(params, self.cell.outputs(params.cell, h), None)
        return FeedingState(inner, y.astype(state.output.dtype)), y.astype(compute_dtype(z))

    def outputs(self, params: Attending, ys: Array) -> Array:
        return ys if self.input_feeding else super().outputs(params, ys)

    def after(self, params: Attending, ys: Array, drawn: Any) -> Array:
        return self.combine(params, ys, attend(params.score, params.memory, ys)[0])

    def alignment(self, params: Attending, before: State, after: State) -> Array:
        h = after.cell.h if self.input_feeding else after.h
        return attend(params.score, params.memory, h)[1]


@dataclasses.dataclass(frozen=True)
class Alignment(Wrapper):
    """An attention cell whose outputs are the weights over its memory, ``[T, *batch, S]``, for pictures."""

    cell: AttentionCell

    def step(self, params: Attending, state: State, z: Any) -> tuple[State, Array]:
        after, _ = self.cell.step(params, state, z)
        return after, self.cell.alignment(params, state, after)

    def outputs(self, params: Attending, ys: Array) -> Array:
        return ys


def showing_alignment(cell: Cell) -> Cell:
    """Returns the cell with outputs that are the weights of its last attention cell; parameters are the same.

    Raises:
      ValueError: if there is no attention cell, at the top or in wrappers around it.
    """
    return with_last(cell, _aligned, lambda part: not attends(part))


def _aligned(cell: Any) -> Alignment:
    if not attends(cell):
        raise ValueError(f"{cell!r} does not attend to anything; give a cell such as Bahdanau or Luong")
    return Alignment(cell)
