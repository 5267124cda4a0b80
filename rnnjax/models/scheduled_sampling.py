"""Training on the model's own predictions."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.cells.cell import Cell, Key, Params, State
from rnnjax.cells.randomness import TimedKey, split, timed
from rnnjax.cells.sizes import as_shape, keep_sizes
from rnnjax.models.dense import Dense, init_dense, init_embedding


class SamplingParams(NamedTuple):
    """The cell's parameters, ``embedding [V, E]``, the readout, and the probability of reading a prediction."""

    cell: Any
    embedding: Array
    readout: Dense
    probability: Float[Array, ""] | float


class SamplingState(NamedTuple):
    """The cell's state, and the token predicted by the last step, ``[*batch]``."""

    cell: Any
    token: Array


class SamplingZs(NamedTuple):
    """What a step reads.

    Attributes:
      x: the true token's embedding.
      sampled: whether the prediction is read instead.
      draw: the key that the step's own prediction is drawn with; None in evaluation.
      cell: the key for the cell; None in evaluation.
    """

    x: Array
    sampled: Array
    draw: Array | None
    cell: TimedKey | None


@dataclasses.dataclass(frozen=True)
class ScheduledSampling(Cell):
    """A cell that at random reads its own prediction instead of the true token (Bengio et al., 2015).

    Its inputs are the embeddings of the true tokens, behind which there may be further features, its outputs are
    logits. At every step but the first, with `SamplingParams.probability`, it reads the embedding of a token drawn from
    its last logits in the place of the true one's. No gradient flows through the draw. Without a key nothing is drawn,
    which is teacher forcing.

    Attributes:
      cell: the cell, whose inputs are embeddings, and further features if there are any.
      vocabulary_size: number V of tokens.
      embedding_size: number E of features of an embedding, where inputs have further features; None: they have not.
    """

    cell: Cell
    vocabulary_size: int
    embedding_size: int | None = None

    def __post_init__(self):
        if not isinstance(self.cell, Cell):
            raise TypeError(f"ScheduledSampling wraps a cell, got {self.cell!r}")
        keep_sizes(self, "vocabulary_size", optional=("embedding_size",))

    @property
    def output_size(self) -> int:
        return self.vocabulary_size

    @property
    def stochastic(self) -> bool:
        return True

    def init(self, key: PRNGKeyArray, input_size: int) -> SamplingParams:
        k_cell, k_embedding, k_readout = jax.random.split(key, 3)
        return SamplingParams(
            self.cell.init(k_cell, input_size),
            init_embedding(k_embedding, self.vocabulary_size, self.embedding_size or input_size),
            init_dense(k_readout, self.cell.output_size, self.vocabulary_size),
            0.0,
        )

    def initial_state(self, batch_size: int | tuple[int, ...], dtype: DTypeLike = jnp.float32) -> SamplingState:
        return self.after(self.cell.initial_state(batch_size, dtype), batch_size)

    def start(self, params: Params, batch_size: int | tuple[int, ...], dtype: DTypeLike) -> SamplingState:
        return self.after(self.cell.start(params.cell, batch_size, dtype), batch_size)

    def after(self, state: State, batch_size: int | tuple[int, ...]) -> SamplingState:
        """Returns the state before the first step, from that of the cell."""
        return SamplingState(state, jnp.zeros(as_shape(batch_size), jnp.int32))

    def inputs(self, params: SamplingParams, xs: Float[Array, "T *B E"], *, key: Key = None) -> SamplingZs:
        if key is None:
            return SamplingZs(xs, jnp.zeros(xs.shape[:-1], bool), None, None)
        k_coin, k_draw, k_cell = (timed(k, xs.shape[0]) for k in split(key, 3))
        sampled = _at_each_time(k_coin, lambda k: jax.random.bernoulli(k, params.probability, xs.shape[1:-1]))
        first = k_coin.time.reshape(-1, *[1] * (sampled.ndim - 1)) == 0  # there is no prediction before it
        draw = _at_each_time(k_draw, lambda k: k)
        cell_keys = TimedKey(jnp.broadcast_to(k_cell.key, xs.shape[:1]), k_cell.time)
        return SamplingZs(xs, sampled & ~first, draw, cell_keys)

    def step(self, params: SamplingParams, state: SamplingState, z: SamplingZs) -> tuple[SamplingState, Array]:
        x, key = z.x, None
        if z.cell is not None:
            own = params.embedding[state.token].astype(x.dtype)
            true, further = jnp.split(x, [own.shape[-1]], axis=-1)
            x = jnp.concatenate([jnp.where(z.sampled[..., None], own, true), further], axis=-1)
            key = TimedKey(z.cell.key, z.cell.time[None])
        inner, y = self.cell.whole_step(params.cell, state.cell, x, key=key)
        logits = params.readout(y).astype(jnp.float32)
        token = state.token if z.draw is None else jax.random.categorical(z.draw, logits).astype(jnp.int32)
        return SamplingState(inner, token), logits


def _at_each_time(key: TimedKey, draw: Any) -> Any:
    """Returns ``draw(key)`` with a key for each time, ``[T, ...]``."""
    return jax.vmap(lambda t: draw(jax.random.fold_in(key.key, t)))(key.time)


def true_tokens_shifted(targets: Int[Array, "*B T"], first: int) -> Int[Array, "*B T"]:
    """Returns what a decoder reads under teacher forcing: `first`, then every target but the last."""
    widths = [(0, 0)] * (targets.ndim - 1) + [(1, 0)]
    return jnp.pad(targets[..., :-1], widths, constant_values=first)
