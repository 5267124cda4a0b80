"""Decoding, the search for likely output sequences: greedy, and with a beam, each one compiled loop.

A search is given any function ``step(state, token) -> (state, logits)``, such as a step of a decoder or a language
model. It calls the function with leading axes ``[B, K]``: K sequences for each of B examples, where K = 1 for `greedy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rnnjax.cells.cell import State
from rnnjax.cells.sizes import check_size

Step = Callable[[State, Array], tuple[State, Array]]


class Hypotheses(NamedTuple):
    """Output sequences: ``tokens [*batch, L]``, ``lengths [*batch]`` and ``scores [*batch]``.

    The length counts the tokens up to the end token, which is included; those after it are padding. A sequence without
    an end token after L tokens is cut there. The score is the sum of the tokens' log-probabilities, divided by the
    length penalty if there is one.
    """

    tokens: Array
    lengths: Array
    scores: Array


class _Search(NamedTuple):
    """A search after `time` tokens: the state of `step`, the last token, and the sequences so far."""

    time: Array
    state: Any
    token: Array
    hypotheses: Hypotheses
    ended: Array


def greedy(step: Step, state: State, *, length: int, first: int, end: int, padding: int = 0) -> Hypotheses:
    """Returns the sequences that have the most likely token at every step.

    Args:
      step: ``step(state, token [B, 1]) -> (state, logits [B, 1, V])``, as `beam_search` calls it.
      state: the state before the first step, each leaf ``[B, ...]``; `step` is given ``[B, 1, ...]``.
      length: largest number of tokens of a sequence, with the end token.
      first: the token that is read first.
      end: the token that ends a sequence.
      padding: the token behind the end.

    Returns:
      Hypotheses with the batch axes ``[B]``.

    Raises:
      ValueError: for a length below 1.
    """
    check_size("length", length)

    def advance(search: _Search) -> _Search:
        state, logits = step(search.state, search.token)
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        best = log_probabilities.argmax(-1).astype(jnp.int32)
        token = jnp.where(search.ended, padding, best)
        gained = jnp.where(search.ended, 0, log_probabilities.max(-1))
        tokens, lengths, scores = search.hypotheses
        tokens = tokens.at[:, :, search.time].set(token)
        # The token that ends a sequence counts; the padding after it does not.
        lengths = lengths + 1 - search.ended.astype(jnp.int32)
        hypotheses = Hypotheses(tokens, lengths, scores + gained)
        return _Search(search.time + 1, state, token, hypotheses, search.ended | (token == end))

    start = _start(_beams(state, 1), (_batch_size(state), 1), length, first, padding)
    return jax.tree.map(lambda leaf: leaf[:, 0], _until_ended(advance, start).hypotheses)


def beam_search(
    step: Step,
    state: State,
    *,
    beam_size: int,
    length: int,
    first: int,
    end: int,
    padding: int = 0,
    length_penalty: float = 0.0,
) -> Hypotheses:
    """Returns the best sequences of a beam search, the best first.

    At every step the K sequences with the highest scores are kept, ended ones included. The score is the sum of
    log-probabilities, divided by ((5 + length) / 6)^length_penalty (Wu et al., 2016). With K = 1 it is `greedy`. If
    there are fewer than K sequences, the rest have the score -inf.

    Args:
      step: ``step(state, token [B, K]) -> (state, logits [B, K, V])``.
      state: the state before the first step, each leaf ``[B, ...]``; `step` is given ``[B, K, ...]``.
      beam_size: number K of sequences to keep.
      length: largest number of tokens of a sequence, with the end token.
      first: the token that is read first.
      end: the token that ends a sequence.
      padding: the token behind the end.
      length_penalty: 0 favours short sequences; 1 nearly compares means over the tokens.

    Returns:
      Hypotheses with the batch axes ``[B, K]``.

    Raises:
      ValueError: for a beam size or a length below 1.
    """
    check_size("beam_size", beam_size)
    check_size("length", length)
    batch = _batch_size(state)

    def advance(carry: tuple[_Search, Array]) -> tuple[_Search, Array]:
        search, total = carry
        state, logits = step(search.state, search.token)
        gained = jax.nn.log_softmax(logits.astype(jnp.float32))
        vocabulary_size = gained.shape[-1]
        # An ended sequence has one continuation, with log-probability 0: its score stays as it is.
        only_one = jnp.where(jnp.arange(vocabulary_size) == 0, jnp.float32(0), -jnp.inf)
        totals = total[..., None] + jnp.where(search.ended[..., None], only_one, gained)
        lengths = search.hypotheses.lengths + 1 - search.ended.astype(jnp.int32)
        # Ranked by these, but carried on as sums: the penalty of a longer sequence is another.
        penalised = totals / penalty(lengths, length_penalty)[..., None]
        # The best K of all continuations of all K sequences, numbered beam by beam.
        scores, best = jax.lax.top_k(penalised.reshape(batch, beam_size * vocabulary_size), beam_size)
        # [B, K]: which sequence is continued, and by what.
        parent, token = best // vocabulary_size, (best % vocabulary_size).astype(jnp.int32)
        state, tokens, lengths, ended = _of_parents((state, search.hypotheses.tokens, lengths, search.ended), parent)
        token = jnp.where(ended, padding, token)  # which need not be in the vocabulary
        hypotheses = Hypotheses(tokens.at[:, :, search.time].set(token), lengths, scores)
        total = jnp.take_along_axis(totals.reshape(batch, beam_size * vocabulary_size), best, 1)
        return _Search(search.time + 1, state, token, hypotheses, ended | (token == end)), total

    # All K sequences are the same at first: only the first one may be continued, or all beams would stay the same.
    only_first = jnp.where(jnp.arange(beam_size) == 0, jnp.float32(0), -jnp.inf)
    total = jnp.broadcast_to(only_first, (batch, beam_size))
    start = _start(_beams(state, beam_size), (batch, beam_size), length, first, padding)
    return _until_ended(advance, (start, total), lambda carry: carry[0])[0].hypotheses


def penalty(lengths: Int[Array, "*B"], exponent: float) -> Float[Array, "*B"]:
    """Returns the length penalty ((5 + length) / 6)^exponent (Wu et al., 2016)."""
    return ((5.0 + lengths.astype(jnp.float32)) / 6.0) ** exponent


def _beams(state: State, count: int) -> State:
    """Returns a state with leaves ``[B, K, ...]``, K times that of each example."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (len(leaf), count, *leaf.shape[1:])), state)


def _start(state: State, batch: tuple[int, int], length: int, first: int, padding: int) -> _Search:
    """Returns a search before its first token, with empty sequences."""
    # Their types are named: with jax_enable_x64 JAX's own are those of 64 bits, which no step would return.
    tokens = jnp.full((*batch, length), padding, jnp.int32)
    empty = Hypotheses(tokens, jnp.zeros(batch, jnp.int32), jnp.zeros(batch, jnp.float32))
    token = jnp.full(batch, first, jnp.int32)
    return _Search(jnp.zeros((), jnp.int32), state, token, empty, jnp.zeros(batch, bool))


def _until_ended(advance: Callable[[Any], Any], carry: Any, search: Callable[[Any], _Search] = lambda c: c) -> Any:
    """Repeats `advance` until every sequence has ended or has its largest length."""

    def unfinished(carry: Any) -> Array:
        longest = search(carry).hypotheses.tokens.shape[-1]
        return (search(carry).time < longest) & ~search(carry).ended.all()

    # Not a scan, so that it stops when all have ended.
    return jax.lax.while_loop(unfinished, advance, carry)


def _of_parents(tree: Any, parent: Int[Array, "B K"]) -> Any:
    """Returns leaves ``[B, K, ...]`` in which each sequence has the values of its parent, the one that it continues."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda beams, parent: beams[parent])(leaf, parent), tree)


def _batch_size(state: State) -> int:
    return jax.tree.leaves(state)[0].shape[0]
