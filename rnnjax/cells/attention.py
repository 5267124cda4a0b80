"""Cells that attend to another sequence, their memory, at every step.

All steps share the memory, as they share the parameters: `attending` therefore puts it among the parameters. It also
computes what the steps need of the memory, the keys of the scores, once for all steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, State, compute_dtype
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.initializers import gate_kernels, initializer
from rnnjax.cells.sizes import keep_sizes
from rnnjax.cells.traits import attends, is_gated
from rnnjax.cells.tree import with_last
from rnnjax.cells.wrapper import Wrapper

SCORES = ("additive", "dot", "general", "concat")


class ScoreParams(NamedTuple):
    """Parameters of a score: ``w_query [Q, A]``, ``w_memory [M, A]``, ``v [A]``; None where the score has none."""

    w_query: Array | None
    w_memory: Array | None
    v: Array | None


class Memory(NamedTuple):
    """A memory: its steps ``values [*batch, S, M]``, their ``keys [*batch, S, A]``, and ``mask [*batch, S]``.

    The mask is true for valid steps.
    """

    values: Array
    keys: Array
    mask: Array


def init_score(score: str, key: PRNGKeyArray, query_size: int, memory_size: int, dtype: DTypeLike) -> ScoreParams:
    """Returns fresh parameters of a score of queries q and steps m of the memory.

    additive, concat: v . tanh(W_q q + W_m m)      (Bahdanau et al., 2015; Luong et al., 2015, write W [q; m])
    general:          q . W_m m                    (Luong et al., 2015)
    dot:              q . m                        (Luong et al., 2015)

    Args:
      score: "additive", "concat", "general" or "dot".
      key: PRNG key.
      query_size: number Q of features of a query.
      memory_size: number M of features of the memory.
      dtype: type of the parameters.

    Raises:
      ValueError: for an unknown score, or for "dot" with Q other than M.
    """
    check_score(score, query_size, memory_size)
    k_query, k_memory, k_v = jax.random.split(key, 3)
    kernel = initializer("glorot_uniform")
    w_query = kernel(k_query, (query_size, query_size), dtype) if score in ("additive", "concat") else None
    w_memory = None if score == "dot" else kernel(k_memory, (memory_size, query_size), dtype)
    v = kernel(k_v, (query_size, 1), dtype)[:, 0] if w_query is not None else None
    return ScoreParams(w_query, w_memory, v)


def check_score(score: str, query_size: int, memory_size: int) -> None:
    """Raises unless `score` is known and fits queries and memories of these sizes."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    if score == "dot" and query_size != memory_size:
        raise ValueError(
            f'score "dot" needs a memory of the query\'s size {query_size}, got {memory_size}; use score="general"'
        )


def remember(params: ScoreParams, values: Float[Array, "*B S M"], lengths: Int[Array, " *B"] | None = None) -> Memory:
    """Returns a memory with its keys; nothing in the padding, NaN included, changes a value or a gradient.

    Args:
      params: the parameters of the score.
      values: the steps of the memory ``[*batch, S, M]``.
      lengths: number of valid steps ``[*batch]``; None: all.
    """
    mask = jnp.ones(values.shape[:-1], bool)
    if lengths is not None:
        mask = jnp.arange(values.shape[-2]) < lengths[..., None]
        values = jnp.where(mask[..., None], values, 0)
    keys = values if params.w_memory is None else jnp.tensordot(values, params.w_memory.astype(values.dtype), 1)
    return Memory(values, keys, mask)


def attend(
    params: ScoreParams, memory: Memory, query: Float[Array, "*B Q"]
) -> tuple[Float[Array, "*B M"], Float[Array, "*B S"]]:
    """Returns the context, and the weights over the memory in float32, which are the softmax of its scores.

    The context is the mean of the memory by these weights. The weight of a step that is not valid is exactly zero, and
    so are all weights if no step is valid. Batch axes are broadcast: all beams, or all steps of a decoder, can attend
    to the same memory.

    Args:
      params: the parameters of the score.
      memory: the memory, as `remember` returns it.
      query: queries ``[*batch, Q]``.
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
    """Returns the softmax over the entries of the last axis where `mask` is true, and zero elsewhere."""
    least = jnp.finfo(scores.dtype).min
    scores = jnp.where(mask, scores, least)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True, initial=least))  # of nothing, in an empty memory
    likelihood = jnp.where(mask, jnp.exp(scores - largest), 0)
    total = likelihood.sum(-1, keepdims=True)
    return likelihood / jnp.where(total > 0, total, 1)


class AttentionParams(NamedTuple):
    """Parameters of the inner cell, of the score, and of the weights ``w_in`` and ``w_out [H + M, A]``.

    ``w_in [E, G, H]`` projects what enters the cell's gates besides the input, E features; None where nothing does.
    """

    cell: Any
    score: ScoreParams
    w_in: Any
    w_out: Array


class Attending(NamedTuple):
    """`AttentionParams` and the memory that the steps attend to."""

    cell: Any
    score: ScoreParams
    w_in: Any
    w_out: Array
    memory: Memory

    def of_init(self) -> AttentionParams:
        """Returns what `init` made of it."""
        return AttentionParams(*self[:-1])


def attending(params: Params, memory: Float[Array, "*B S M"], lengths: Int[Array, " *B"] | None = None) -> Params:
    """Returns a cell's parameters with a memory for every attention cell in it, however deep.

    Args:
      params: parameters of an attention cell, or of a cell made of one; those of other cells stay as they are.
      memory: the sequences to attend to ``[*batch, S, M]``, such as an encoder's outputs.
      lengths: number of valid steps ``[*batch]`` of each; None: all.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Luong(rnnjax.LSTM(8), memory_size=6)
      >>> params = cell.init(jax.random.key(0), 3)
      >>> params = rnnjax.attending(params, jnp.ones((2, 7, 6)), lengths=jnp.array([7, 4]))
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """

    def attend_to(part: Any) -> Any:
        if isinstance(part, AttentionParams):
            return Attending(*part, remember(part.score, memory, lengths))
        return part

    return jax.tree.map(attend_to, params, is_leaf=lambda part: isinstance(part, AttentionParams))


@dataclasses.dataclass(frozen=True)
class AttentionCell(Wrapper):
    """The base of cells with attention: a gated cell, a score, and the output of Luong et al. (2015),

    y = tanh(W_out [h; context])

    Before it takes a step, `attending` must give its parameters a memory.

    Attributes:
      cell: a gated cell.
      memory_size: number M of features of the memory.
      score: "additive", "dot", "general" or "concat", as in `init_score`.
      size: number A of outputs; None takes the cell's.

    Raises:
      TypeError: for a cell that is not gated.
      ValueError: as `init_score`.
    """

    cell: GatedCell
    memory_size: int
    _: dataclasses.KW_ONLY
    score: str = "additive"
    size: int | None = None

    def __post_init__(self):
        if not is_gated(self.cell):
            raise TypeError(
                f"{type(self).__name__} needs a gated cell, since the context enters the gates, got {self.cell!r}; "
                f"put {type(self).__name__} inside of other cells, right around the gated one"
            )
        keep_sizes(self, "memory_size", optional=("size",))
        check_score(self.score, self.cell.output_size, self.memory_size)

    @property
    def output_size(self) -> int:
        return self.cell.output_size if self.size is None else self.size

    def extra_input_size(self) -> int:
        """Returns the number E of features that enter the cell's gates besides the input; 0 for none."""
        raise NotImplementedError

    def init(self, key: PRNGKeyArray, input_size: int) -> AttentionParams:
        k_cell, k_score, k_in, k_out = jax.random.split(key, 4)
        query_size, dtype = self.cell.output_size, self.cell.param_dtype
        cell_params = self.cell.init(k_cell, input_size)
        score_params = init_score(self.score, k_score, query_size, self.memory_size, dtype)
        w_in = None
        if self.extra_input_size():
            zs = jax.eval_shape(lambda: self.cell.inputs(cell_params, jnp.zeros((1, input_size))))
            _, gates, hidden = zs.shape
            w_in = gate_kernels(self.cell.kernel_init, k_in, self.extra_input_size(), gates, hidden, dtype)
        w_out = initializer("glorot_uniform")(k_out, (query_size + self.memory_size, self.output_size), dtype)
        return AttentionParams(cell_params, score_params, w_in, w_out)

    def inner(self, params: AttentionParams | Attending) -> Params:
        return params.cell

    def before(self, params: Attending, xs: Array, drawn: Any) -> Array:
        check_attending(params)
        return xs

    def with_extra_input(self, params: Attending, z: Array, features: Array) -> Array:
        """Returns ``z`` as if `features` had been part of the input."""
        return z + self.cell.project(params.w_in, features.astype(z.dtype))

    def combine(self, params: Attending, h: Array, context: Array) -> Array:
        """Returns the output from the cell's output and the context."""
        both = jnp.concatenate([h, context.astype(h.dtype)], axis=-1)
        return jnp.tanh(jnp.tensordot(both, params.w_out.astype(h.dtype), 1))

    def attention_weights(self, params: Attending, before: State, after: State) -> Float[Array, "*B S"]:
        """Returns the weights over the memory in the step from one state to the next."""
        raise NotImplementedError


def check_attending(params: Any) -> None:
    """Raises unless an attention cell's parameters have been given a memory."""
    if not isinstance(params, Attending):
        raise ValueError("the cell has no memory to attend to; use the parameters attending(params, memory, lengths)")


@dataclasses.dataclass(frozen=True)
class Bahdanau(AttentionCell):
    """Attention with the state before the step, whose context is part of the step's input (Bahdanau et al., 2015).

    context = attend(h, memory);  h' = cell(h, [x; context]);  y = tanh(W_out [h'; context])

    The product with W_out is one product of all steps, after the loop.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Bahdanau(rnnjax.GRU(8), memory_size=6)
      >>> params = rnnjax.attending(cell.init(jax.random.key(0), 3), jnp.ones((2, 7, 6)))
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """

    def extra_input_size(self) -> int:
        return self.memory_size

    def step(self, params: Attending, state: State, z: Any) -> tuple[State, Array]:
        context, _ = attend(params.score, params.memory, state.h)
        state, h = self.cell.step(params.cell, state, self.with_extra_input(params, z, context))
        h = self.cell.outputs(params.cell, h)
        return state, jnp.concatenate([h, context.astype(h.dtype)], axis=-1)

    def outputs(self, params: Attending, ys: Array) -> Array:
        h, context = jnp.split(ys, [self.cell.output_size], axis=-1)
        return self.combine(params, h, context)

    def attention_weights(self, params: Attending, before: State, after: State) -> Array:
        return attend(params.score, params.memory, before.h)[1]


class FeedingState(NamedTuple):
    """State of a cell that reads its own last output: the inner cell's state, and ``output [*batch, A]``."""

    cell: Any
    output: Array


@dataclasses.dataclass(frozen=True)
class Luong(AttentionCell):
    """Attention with the state after the step (Luong et al., 2015).

    h' = cell(h, [x; y]);  context = attend(h', memory);  y' = tanh(W_out [h'; context])

    Attributes:
      input_feeding: whether the last output y is part of the step's input. Without it no step depends on the attention,
        which is then computed after the loop, for all steps at once.

    Example:
      >>> import jax, jax.numpy as jnp, rnnjax
      >>> cell = rnnjax.Luong(rnnjax.LSTM(8), memory_size=6, input_feeding=False)
      >>> params = rnnjax.attending(cell.init(jax.random.key(0), 3), jnp.ones((2, 7, 6)))
      >>> ys, state = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
      >>> ys.shape
      (2, 5, 8)
    """

    score: str = "general"
    input_feeding: bool = True

    def extra_input_size(self) -> int:
        return self.output_size if self.input_feeding else 0

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> State:
        state = self.cell.initial_state(batch_size, dtype)
        if not self.input_feeding:
            return state
        return FeedingState(state, self.cell.zeros(batch_size, self.output_size, dtype))

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> State:
        return self.initial_state(batch_size, dtype)

    def in_time(self, key: Key) -> bool:
        return self.input_feeding

    def step(self, params: Attending, state: State, z: Any) -> tuple[State, Array]:
        if not self.input_feeding:
            return super().step(params, state, z)
        inner, h = self.cell.step(params.cell, state.cell, self.with_extra_input(params, z, state.output))
        y = self.after(params, self.cell.outputs(params.cell, h), None)
        return FeedingState(inner, y.astype(state.output.dtype)), y.astype(compute_dtype(z))

    def outputs(self, params: Attending, ys: Array) -> Array:
        return ys if self.input_feeding else super().outputs(params, ys)

    def after(self, params: Attending, ys: Array, drawn: Any) -> Array:
        return self.combine(params, ys, attend(params.score, params.memory, ys)[0])

    def attention_weights(self, params: Attending, before: State, after: State) -> Array:
        h = after.cell.h if self.input_feeding else after.h
        return attend(params.score, params.memory, h)[1]


@dataclasses.dataclass(frozen=True)
class AttentionWeights(Wrapper):
    """An attention cell whose outputs are its weights over the memory, ``[T, *batch, S]``, such as for a plot."""

    cell: AttentionCell

    def step(self, params: Attending, state: State, z: Any) -> tuple[State, Array]:
        after, _ = self.cell.step(params, state, z)
        return after, self.cell.attention_weights(params, state, after)

    def outputs(self, params: Attending, ys: Array) -> Array:
        return ys


def with_attention_weights(cell: Cell) -> Cell:
    """Returns a cell with the same parameters, whose outputs are the weights of its last attention cell.

    Raises:
      ValueError: if the last cell in its stacks and wrappers is no attention cell.
    """
    return with_last(cell, _weights_of, lambda part: not attends(part))


def _weights_of(cell: Any) -> AttentionWeights:
    if not attends(cell):
        raise ValueError(f"{cell!r} has no attention; use a cell such as Bahdanau or Luong")
    return AttentionWeights(cell)
