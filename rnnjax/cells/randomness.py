"""Random masks that are the same for a whole sequence, for its chunks, and for single steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class TimedKey(NamedTuple):
    """A PRNG key and the time steps ``time [T]`` that it is used for.

    A plain key is used for the steps from 0 on. With a `TimedKey`, a part of a sequence (one step, a chunk) draws
    exactly what the whole sequence would draw there.
    """

    key: PRNGKeyArray
    time: Int[Array, " T"]


def timed(key: PRNGKeyArray | TimedKey, length: int) -> TimedKey:
    """Returns `key` with its time steps, which are ``0 .. length - 1`` for a plain key.

    Raises:
      ValueError: if it has another number of steps.
    """
    if not isinstance(key, TimedKey):
        return TimedKey(key, jnp.arange(length))
    if key.time.shape != (length,):
        raise ValueError(
            f"the TimedKey must have one time for each of the sequence's {length} steps, got {key.time.size}"
        )
    return key


def split(key: PRNGKeyArray | TimedKey | None, count: int) -> list:
    """Returns `count` independent keys for the same time steps; for None, `count` times None."""
    if key is None:
        return [None] * count
    if isinstance(key, TimedKey):
        return [TimedKey(k, key.time) for k in jax.random.split(key.key, count)]
    return list(jax.random.split(key, count))


def keep_mask(
    key: PRNGKeyArray | TimedKey, rate: float, shape: tuple[int, ...], *, variational: bool
) -> Bool[Array, "T *B N"]:
    """Returns a mask that is false with probability `rate`.

    Args:
      key: PRNG key.
      rate: probability of false.
      shape: ``(T, *batch, N)``.
      variational: whether the mask of a sequence is the same at every step (Gal and Ghahramani, 2016), not drawn anew.
    """
    length, *rest = shape
    key, time = timed(key, length)
    if variational:
        return jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, rest), shape)
    return jax.vmap(lambda t: jax.random.bernoulli(jax.random.fold_in(key, t), 1 - rate, rest))(time)


def scaled(kept: Bool[Array, "*N"], rate: float, dtype: DTypeLike) -> Float[Array, "*N"]:
    """Returns a mask as factors 0 and ``1 / (1 - rate)``, whose expected value is 1."""
    return kept.astype(dtype) / jnp.asarray(1 - rate, dtype)


def dropout_mask(
    key: PRNGKeyArray | TimedKey, rate: float, shape: tuple[int, ...], dtype: DTypeLike, *, variational: bool
) -> Float[Array, "T *B N"]:
    """Returns factors that are 0 with probability `rate`, else ``1 / (1 - rate)``.

    Args:
      key: PRNG key.
      rate: probability of 0.
      shape: ``(T, *batch, N)``.
      dtype: type of the factors.
      variational: whether the factors of a sequence are the same at every step, not drawn anew.
    """
    return scaled(keep_mask(key, rate, shape, variational=variational), rate, dtype)
