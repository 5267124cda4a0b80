"""A model that reads one sequence and writes another."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.cells.attention import attending, with_attention_weights
from rnnjax.cells.cell import Cell, Key, State
from rnnjax.cells.randomness import split
from rnnjax.cells.sizes import check_size
from rnnjax.models.decoding import Step
from rnnjax.models.dense import Dense, init_dense, init_embedding
from rnnjax.models.scheduled_sampling import SamplingParams, ScheduledSampling, true_tokens_shifted
from rnnjax.unrolling.bidirectional import bidirectional
from rnnjax.unrolling.sequences import unroll


class EncoderDecoderParams(NamedTuple):
    """Parameters: embeddings ``[V, E]``, those of the cells (a pair where the encoder has two), and dense layers."""

    source_embedding: Array
    target_embedding: Array
    encoder: Any
    bridge: Dense
    decoder: Any
    readout: Dense


class Encoded(NamedTuple):
    """What the decoder reads of a source.

    Attributes:
      memory: the encoder's outputs ``[B, S, M]``.
      lengths: of the sources, ``[B]``.
      state: the decoder's first state.
      context: what the decoder reads at every step, ``[B, C]``; C is 0 where it reads nothing.
    """

    memory: Array
    lengths: Array
    state: Any
    context: Array


@dataclasses.dataclass(frozen=True)
class EncoderDecoder:
    """Reads a source with one cell, or with two in both directions, and writes a target with another cell.

    The decoder starts from tanh(W s + b), where s is the encoder's whole final state; with `context` it also reads s at
    every step, beside the token (Cho et al., 2014). If it has attention, it attends to the encoder's outputs; its
    `memory_size` must be their number of features. Like a cell, the model has no arrays: its parameters are a separate
    pytree.

    Attributes:
      source_size, target_size: sizes of the two vocabularies.
      embedding_size: features of an embedded token.
      encoder: the cell that reads, a `Stack` for several layers.
      decoder: the cell that writes, with attention or without.
      backward: if given, a second cell that reads from the last token to the first.
      reverse: whether the source is read from its last token to its first (Sutskever et al., 2014).
      context: whether the decoder reads the encoder's final state at every step.
      first: the token that the decoder reads first.
      dtype: type of the computation; parameters and logits are float32.

    Raises:
      ValueError: for sizes below 1, or `reverse` together with `backward`.
    """

    source_size: int
    target_size: int
    embedding_size: int
    encoder: Cell
    decoder: Cell
    _: dataclasses.KW_ONLY
    backward: Cell | None = None
    reverse: bool = False
    context: bool = False
    first: int = 1
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        for name in ("source_size", "target_size", "embedding_size"):
            check_size(name, getattr(self, name))
        if self.reverse and self.backward is not None:
            raise ValueError("an encoder of both directions already reads the source in reverse; leave reverse out")

    @property
    def encoders(self) -> tuple[Cell, ...]:
        """The encoder's cells."""
        return (self.encoder,) if self.backward is None else (self.encoder, self.backward)

    def init(self, key: PRNGKeyArray) -> EncoderDecoderParams:
        """Returns fresh parameters."""
        k_source, k_target, k_encoder, k_bridge, k_decoder, k_readout = jax.random.split(key, 6)
        keys = jax.random.split(k_encoder, len(self.encoders))
        encoders = [cell.init(k, self.embedding_size) for cell, k in zip(self.encoders, keys)]
        summary = _features([cell.initial_state(1) for cell in self.encoders])
        return EncoderDecoderParams(
            init_embedding(k_source, self.source_size, self.embedding_size),
            init_embedding(k_target, self.target_size, self.embedding_size),
            encoders[0] if self.backward is None else tuple(encoders),
            init_dense(k_bridge, summary, _features(self.decoder.initial_state(1))),
            self.decoder.init(k_decoder, self.embedding_size + (summary if self.context else 0)),
            init_dense(k_readout, self.decoder.output_size, self.target_size),
        )

    def encode(
        self, params: EncoderDecoderParams, source: Int[Array, "B S"], lengths: Int[Array, " B"], *, key: Key = None
    ) -> Encoded:
        """Returns encoded sources.

        Args:
          params: the parameters.
          source: tokens ``[B, S]``.
          lengths: number of valid tokens of each source, ``[B]``.
          key: PRNG key for dropout; None means evaluation.
        """
        xs = params.source_embedding[source].astype(self.dtype)
        if self.backward is None:
            memory, state = unroll(self.encoder, params.encoder, xs, lengths=lengths, reverse=self.reverse, key=key)
        else:
            memory, state = bidirectional(self.encoder, self.backward, params.encoder, xs, lengths=lengths, key=key)
        summary = _summary(state, len(source))
        context = (summary if self.context else summary[:, :0]).astype(self.dtype)
        return Encoded(memory, lengths, self._bridge(params.bridge, summary), context)

    def _bridge(self, bridge: Dense, summary: Float[Array, "B C"]) -> State:
        """Returns the decoder's first state from the encoder's last, all of its parts side by side."""
        batch_size, features = len(summary), jnp.tanh(bridge(summary))
        # Only the shapes and types, into which the features are cut.
        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: self.decoder.initial_state(batch_size, self.dtype)))
        parts, start = [], 0
        for leaf in leaves:
            size = math.prod(leaf.shape[1:])
            parts.append(features[:, start : start + size].reshape(leaf.shape).astype(leaf.dtype))
            start += size
        return jax.tree.unflatten(structure, parts)

    def logits(
        self,
        params: EncoderDecoderParams,
        source: Int[Array, "B S"],
        lengths: Int[Array, " B"],
        target: Int[Array, "B T"],
        *,
        sampling: Float[Array, ""] | float | None = None,
        key: Key = None,
    ) -> Float[Array, "B T V"]:
        """Returns the logits of every target token, given the source and the true tokens before it.

        Args:
          params: the parameters.
          source: source tokens ``[B, S]``.
          lengths: number of valid tokens of each source, ``[B]``.
          target: true target tokens ``[B, T]``, with the end token.
          sampling: in training, the probability with which the decoder reads its own prediction instead of the true
            token (scheduled sampling); None: teacher forcing.
          key: PRNG key for dropout and sampling; None means evaluation.
        """
        k_encoder, k_decoder = split(key, 2)
        encoded = self.encode(params, source, lengths, key=k_encoder)
        decoder = attending(params.decoder, encoded.memory, encoded.lengths)
        xs = self._inputs(params, true_tokens_shifted(target, self.first), encoded.context[:, None])
        if sampling is None or key is None:
            # Without the targets' lengths: the loss does not count what is behind the end, and nothing reads the state.
            ys, _ = unroll(self.decoder, decoder, xs, encoded.state, key=k_decoder)
            return params.readout(ys).astype(jnp.float32)
        cell = ScheduledSampling(self.decoder, self.target_size, self.embedding_size)
        sampling_params = SamplingParams(decoder, params.target_embedding, params.readout, sampling)
        logits, _ = unroll(cell, sampling_params, xs, cell.after(encoded.state, len(source)), key=k_decoder)
        return logits

    def decoder_step(self, params: EncoderDecoderParams, encoded: Encoded, *, beam: bool = False) -> Step:
        """Returns ``step(state, token) -> (state, logits)`` for decoding, to be started from `encoded.state`.

        Args:
          params: the parameters.
          encoded: the encoded sources.
          beam: whether tokens are ``[B, K]``, as in every search, not ``[B]``. The K sequences of a source then attend
            to the same memory, of which there is one copy.
        """
        memory, lengths, context = encoded.memory, encoded.lengths, encoded.context
        # [B, 1, S, M], which the scores broadcast over the K sequences.
        if beam:
            memory, lengths, context = memory[:, None], lengths[:, None], context[:, None]
        decoder = attending(params.decoder, memory, lengths)

        def step(state: State, token: Int[Array, "B *K"]) -> tuple[State, Float[Array, "B *K V"]]:
            state, y = self.decoder(decoder, state, self._inputs(params, token, context))
            return state, params.readout(y).astype(jnp.float32)

        return step

    def alignment(
        self,
        params: EncoderDecoderParams,
        source: Int[Array, "B S"],
        lengths: Int[Array, " B"],
        target: Int[Array, "B T"],
    ) -> Float[Array, "B T S"]:
        """Returns the weights of the decoder's attention to each source token at each target token.

        Args:
          params: the parameters.
          source: source tokens ``[B, S]``.
          lengths: number of valid tokens of each source, ``[B]``.
          target: target tokens ``[B, T]``, with the end token.

        Raises:
          ValueError: if the decoder has no attention.
        """
        encoded = self.encode(params, source, lengths)
        decoder = attending(params.decoder, encoded.memory, encoded.lengths)
        xs = self._inputs(params, true_tokens_shifted(target, self.first), encoded.context[:, None])
        return unroll(with_attention_weights(self.decoder), decoder, xs, encoded.state)[0]

    def _inputs(self, params: EncoderDecoderParams, tokens: Array, context: Array) -> Array:
        """Returns what the decoder reads: embedded tokens, and behind them a context that broadcasts over the steps."""
        xs = params.target_embedding[tokens].astype(self.dtype)
        return jnp.concatenate([xs, jnp.broadcast_to(context, (*xs.shape[:-1], context.shape[-1]))], axis=-1)


def _summary(state: State, batch_size: int) -> Float[Array, "B C"]:
    """Returns all parts of a state side by side, with those of all layers and directions."""
    leaves = [leaf.reshape(batch_size, math.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(state)]
    return jnp.concatenate(leaves, axis=-1)


def _features(state: State) -> int:
    """Returns the number of features of the state of one example."""
    return sum(leaf.size for leaf in jax.tree.leaves(state))
