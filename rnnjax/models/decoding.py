"""Search for the likeliest output sequences: greedy, and with a beam, each one compiled loop.

What is searched is any function ``step(state, token) -> (state, logits)``, such as a decoder or a language model. Every
search calls it with the same leading axes ``[B, K]``, K sequences for each of B; of `greedy`, K = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rnnjax.cells.cell import State, check_size

Step = Callable[[State, Array], tuple[State, Array]]


class Hypotheses(NamedTuple):
    """Output sequences: ``tokens [*batch, L]``, how many of them count (the end is one), and their scores.

    Tokens past the end are padding. One that has not ended after L tokens is cut there. The score is the sum of the
    tokens' log-probabilities, divided by the length penalty where there is one.
    """

    tokens: Array
    lengths: Array
    scores: Array


class _Search(NamedTuple):
    """The state of a search after `time` tokens."""

    time: Array
    state: Any
    token: Array
    found: Hypotheses
    ended: Array


def greedy(step: Step, state: State, *, length: int, first: int, end: int, padding: int = 0) -> Hypotheses:
    """Returns the sequences that take the likeliest token at every step.

    Args:
      step: ``step(state, token [B, 1]) -> (state, logits [B, 1, V])``, as `beam_search` calls it.
      state: the state before the first step, each leaf ``[B, ...]``; `step` sees ``[B, 1, ...]``.
      length: most tokens of a sequence, the end among them.
      first: the token that is read first.
      end: the token that ends a sequence.
      padding: the token that fills what is left.
    """
    check_size("length", length)

    def advance(search: _Search) -> _Search:
        state, logits = step(search.state, search.token)
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        best = log_probabilities.argmax(-1).astype(jnp.int32)
        token = jnp.where(search.ended, padding, best)
        gained = jnp.where(search.ended, 0, log_probabilities.max(-1))
        tokens, lengths, scores = search.found
        found = Hypotheses(
            tokens.at[:, :, search.time].set(token), lengths + 1 - search.ended.astype(jnp.int32), scores + gained
        )
        return _Search(search.time + 1, state, token, found, search.ended | (token == end))

    begin = _begin(_beams(state, 1), (_batch_size(state), 1), length, first, padding)
    return jax.tree.map(lambda leaf: leaf[:, 0], _until_ended(advance, begin).found)


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
    """Returns the best sequences found with a beam, ``[B, K]`` of them, the best first.

    At every step the K sequences with the highest scores are kept, ended ones among them. The score is the sum of
    log-probabilities divided by ((5 + length) / 6)^length_penalty (Wu et al., 2016). With K = 1 it is `greedy`. Where
    fewer than K sequences exist, the rest have the score -inf.

    Args:
      step: ``step(state, token [B, K]) -> (state, logits [B, K, V])``.
      state: the state before the first step, each leaf ``[B, ...]``; `step` sees ``[B, K, ...]``.
      beam_size: number K of sequences kept.
      length, first, end, padding: as for `greedy`.
      length_penalty: 0 favours short sequences, 1 compares means over the tokens, nearly.
    """
    check_size("beam_size", beam_size)
    check_size("length", length)
    batch = _batch_size(state)

    def advance(carry: tuple[_Search, Array]) -> tuple[_Search, Array]:
        search, total = carry
        state, logits = step(search.state, search.token)
        gained = jax.nn.log_softmax(logits.astype(jnp.float32))
        # An ended sequence goes on in one way only: with padding, for nothing.
        nothing = jnp.where(jnp.arange(gained.shape[-1]) == padding, 0.0, -jnp.inf)
        totals = total[..., None] + jnp.where(search.ended[..., None], nothing, gained)
        lengths = search.found.lengths + 1 - search.ended.astype(jnp.int32)
        scores, chosen = jax.lax.top_k(
            (totals / penalty(lengths, length_penalty)[..., None]).reshape(batch, -1), beam_size
        )
        parent, token = chosen // gained.shape[-1], (chosen % gained.shape[-1]).astype(jnp.int32)
        state, tokens, lengths, ended = _of_parents((state, search.found.tokens, lengths, search.ended), parent)
        found = Hypotheses(tokens.at[:, :, search.time].set(token), lengths, scores)
        total = jnp.take_along_axis(totals.reshape(batch, -1), chosen, 1)
        return _Search(search.time + 1, state, token, found, ended | (token == end)), total

    # All beams begin alike, so that only the first may branch.
    alone = jnp.broadcast_to(jnp.where(jnp.arange(beam_size) == 0, 0.0, -jnp.inf), (batch, beam_size))
    begin = _begin(_beams(state, beam_size), (batch, beam_size), length, first, padding)
    return _until_ended(advance, (begin, alone), lambda carry: carry[0])[0].found


def penalty(lengths: Int[Array, "*B"], exponent: float) -> Float[Array, "*B"]:
    """Returns the length penalty ((5 + length) / 6)^exponent (Wu et al., 2016)."""
    return ((5.0 + lengths.astype(jnp.float32)) / 6.0) ** exponent


def _beams(state: State, count: int) -> State:
    """Returns leaves ``[B, K, ...]``, the state of each sequence K times."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (len(leaf), count, *leaf.shape[1:])), state)


def _begin(state: State, batch: tuple[int, int], length: int, first: int, padding: int) -> _Search:
    nothing = Hypotheses(jnp.full((*batch, length), padding), jnp.zeros(batch, jnp.int32), jnp.zeros(batch))
    return _Search(jnp.zeros((), jnp.int32), state, jnp.full(batch, first), nothing, jnp.zeros(batch, bool))


def _until_ended(advance: Callable[[Any], Any], carry: Any, search: Callable[[Any], _Search] = lambda c: c) -> Any:
    """Repeats `advance` until every sequence has ended or is as long as it may be."""

    def unfinished(carry: Any) -> Array:
        return (search(carry).time < search(carry).found.tokens.shape[-1]) & ~search(carry).ended.all()

    return jax.lax.while_loop(unfinished, advance, carry)


def _of_parents(tree: Any, parent: Int[Array, "B K"]) -> Any:
    """Returns leaves ``[B, K, ...]`` with each beam's taken from the one it goes on from."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda beams, chosen: beams[chosen])(leaf, parent), tree)


def _batch_size(state: State) -> int:
    return jax.tree.leaves(state)[0].shape[0]
