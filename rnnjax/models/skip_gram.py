"""Word vectors by skip-gram with negative sampling (Mikolov et al., 2013)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Draw(NamedTuple):
    """A random draw for rows of text.

    Attributes:
      words: the words that remain after frequent ones were subsampled, with -1 behind them.
      reach: for each word as a centre, the number of words on each side that are its context.
      noise: noise words, which all centres of a row share.
    """

    words: Int[Array, "*B L"]
    reach: Int[Array, "*B L"]
    noise: Int[Array, "*B S"]


def draw(
    key: PRNGKeyArray,
    text: Int[Array, " L"],
    keep: Float[Array, " V"],
    noise_bounds: Float[Array, " V"],
    *,
    window: int,
    noise: int,
) -> Draw:
    """Returns a draw for one row of text.

    Words are subsampled before contexts are taken, so that contexts reach further (Mikolov et al., 2013).

    Args:
      key: PRNG key.
      text: the words ``[L]``; -1 where there is none.
      keep: for each word of the vocabulary, the probability of keeping it, ``[V]``.
      noise_bounds: the cumulative distribution of noise words, ``[V]``.
      window: largest reach; reaches are uniform from 1 on.
      noise: number of noise words.
    """
    k_keep, k_reach, k_noise = jax.random.split(key, 3)
    is_kept = (text >= 0) & (jax.random.uniform(k_keep, text.shape) < keep[text])
    kept_first = jnp.argsort(~is_kept, stable=True)
    words = jnp.where(is_kept[kept_first], text[kept_first], -1)
    reach = jax.random.randint(k_reach, text.shape, 1, window + 1)
    drawn = jnp.searchsorted(noise_bounds, jax.random.uniform(k_noise, (noise,)), side="right")
    return Draw(words, reach, jnp.minimum(drawn, len(keep) - 1))


def contexts(words: Int[Array, "*B L"], reach: Int[Array, "*B L"]) -> Float[Array, "*B L L"]:
    """Returns 1 where a word (last axis) is in the context of a centre (the axis before it), else 0."""
    place = jnp.arange(words.shape[-1])
    distance = jnp.abs(place[:, None] - place)
    present = words >= 0
    near = (distance > 0) & (distance <= reach[..., :, None])
    return (near & present[..., :, None] & present[..., None, :]).astype(jnp.float32)


class SkipGram(nn.Module):
    """Skip-gram with two vectors a word, v as a centre and u as a context.

    loss of a centre c = sum over its contexts o of ( -log sigmoid(u_o . v_c) - K E_n log sigmoid(-u_n . v_c) )

    The expectation over noise words n is the mean over those of a row, which all its centres share, so that it is one
    product (Ji et al., 2016). Noise words that happen to be the context are not removed.

    Attributes:
      vocabulary: number V of words.
      size: number D of features of a vector.
      negatives: number K of noise words for each context.
    """

    vocabulary: int
    size: int
    negatives: int

    @nn.compact
    def __call__(self, draw: Draw) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """Returns each row's sum of losses, and its number of pairs of a centre and a context."""
        span = 0.5 / self.size
        shape = (self.vocabulary, self.size)
        centre = self.param("centre", lambda key: jax.random.uniform(key, shape, minval=-span, maxval=span))
        context = self.param("context", nn.initializers.zeros, shape)
        words = jnp.maximum(draw.words, 0)
        v, u, noise = centre[words], context[words], context[draw.noise]
        pairs = contexts(draw.words, draw.reach)
        # -log sigmoid(x) is softplus(-x).
        positive = jax.nn.softplus(-jnp.einsum("btd,bsd->bts", v, u))
        negative = jax.nn.softplus(jnp.einsum("btd,bnd->btn", v, noise)).mean(-1)
        loss = (pairs * positive).sum((1, 2)) + self.negatives * (pairs.sum(2) * negative).sum(1)
        return loss, pairs.sum((1, 2))
