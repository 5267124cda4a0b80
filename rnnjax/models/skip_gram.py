"""Word vectors by skip-gram with negative sampling (Mikolov et al., 2013)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Draw(NamedTuple):
    """What is drawn at random for rows of text.

    Attributes:
      words: the words that are left after frequent ones were thinned out, and -1 behind them.
      reach: for each of them as a centre, how many words away its context goes.
      noise: words that every centre of the row is contrasted with.
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
    """Returns a draw for one row of text; -1 marks places without a word.

    A word is kept with its probability in `keep`, before contexts are looked at, so that they reach further; reaches
    are uniform from 1 to `window`; `noise` words are drawn from the cumulative distribution `noise_bounds`.
    """
    k_keep, k_reach, k_noise = jax.random.split(key, 3)
    kept = (text >= 0) & (jax.random.uniform(k_keep, text.shape) < keep[text])
    order = jnp.argsort(~kept, stable=True)
    words = jnp.where(kept[order], text[order], -1)
    reach = jax.random.randint(k_reach, text.shape, 1, window + 1)
    drawn = jnp.searchsorted(noise_bounds, jax.random.uniform(k_noise, (noise,)), side="right")
    return Draw(words, reach, jnp.minimum(drawn, len(keep) - 1))


def contexts(words: Int[Array, "*B L"], reach: Int[Array, "*B L"]) -> Float[Array, "*B L L"]:
    """Returns 1 where the word of the last axis is in the context of the centre in the axis before, else 0."""
    place = jnp.arange(words.shape[-1])
    distance = jnp.abs(place[:, None] - place)
    present = words >= 0
    near = (distance > 0) & (distance <= reach[..., :, None])
    return (near & present[..., :, None] & present[..., None, :]).astype(jnp.float32)


class SkipGram(nn.Module):
    """Two vectors a word: v to speak as a centre, u to be recognised as a context.

    loss of a centre c = sum over its contexts o of ( -log sigmoid(u_o . v_c) - K E_n log sigmoid(-u_n . v_c) )

    The expectation over noise words n is the mean over a row's, which all of its centres share, so that it is one
    product (Ji et al., 2016). Noise that happens to be the context is not taken out.

    Attributes:
      vocabulary: number V of words.
      size: numbers D in a vector.
      negatives: number K of noise words that a context is weighed against.
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
        heard = jax.nn.softplus(-jnp.einsum("btd,bsd->bts", v, u))
        false = jax.nn.softplus(jnp.einsum("btd,bnd->btn", v, noise)).mean(-1)
        loss = (pairs * heard).sum((1, 2)) + self.negatives * (pairs.sum(2) * false).sum(1)
        return loss, pairs.sum((1, 2))
