"""Drawing tokens from logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.dtypes import at_least_float32


def sample(
    key: PRNGKeyArray,
    logits: Float[Array, "*B V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, "*B"]:
    """Returns tokens drawn with probability ``softmax(logits / temperature)``, after `top_k` and `top_p`.

    Args:
      key: PRNG key; the same key draws the same tokens.
      logits: unnormalised log-probabilities ``[*batch, V]``.
      temperature: below 1, likely tokens become more likely; with 0 the most likely token is taken.
      top_k: if given, only the k most likely tokens are drawn from, as in `keep_top_k`.
      top_p: if given, only tokens of this total probability are drawn from, as in `keep_top_p`, after `top_k` and at
        this temperature.

    Raises:
      ValueError: for a negative temperature, and as `keep_top_k` and `keep_top_p`.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    draws = temperature >= jnp.finfo(jnp.float32).tiny  # below it, 1 / temperature may be infinite
    if draws:
        # The largest is zero, so that none overflows.
        logits = logits.astype(at_least_float32(logits.dtype))
        logits = (logits - logits.max(-1, keepdims=True)) / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return jax.random.categorical(key, logits) if draws else logits.argmax(-1)


def keep_top_k(logits: Float[Array, "*B V"], k: int) -> Float[Array, "*B V"]:
    """Returns the k highest logits, and minus infinity elsewhere; among equal logits, the first are kept.

    Raises:
      ValueError: for a k below 1.
    """
    if k < 1:
        raise ValueError(f"top_k must be at least 1, got {k}")
    return jnp.where(_ranks(logits) < min(k, logits.shape[-1]), logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "*B V"], p: float) -> Float[Array, "*B V"]:
    """Returns the smallest set of highest logits with total probability p, and minus infinity elsewhere.

    At least one is kept; among equal logits, the first are (nucleus sampling, Holtzman et al., 2020).

    Raises:
      ValueError: for a p that is not above 0 and at most 1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {p}")
    descending = -jnp.sort(-jax.nn.softmax(logits), axis=-1)
    before = descending.cumsum(-1) - descending
    count = jnp.maximum((before < p).sum(-1, keepdims=True), 1)  # a small p may round to 0
    return jnp.where(_ranks(logits) < count, logits, -jnp.inf)


def _ranks(logits: Float[Array, "*B V"]) -> Int[Array, "*B V"]:
    """Returns the rank of each logit, 0 for the highest."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1)
