"""Random masks that are the same whether a sequence is taken whole or step by step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class TimedKey(NamedTuple):
    """A PRNG key together with the time steps ``time [T]`` that it is used for.

    A plain key stands for the steps from 0 on. Naming the steps lets a part of a sequence (one step, a chunk)
    draw exactly what the whole sequence would have drawn there.
    """

    key: PRNGKeyArray
    time: Int[Array, " T"]


def timed(key: PRNGKeyArray | TimedKey, length: int) -> TimedKey:
    """Returns `key` with its time steps, which are ``0 .. length - 1`` for a plain key.

    Raises:
      ValueError: if it names another number of steps.
    """
    if not isinstance(key, TimedKey):
        return TimedKey(key, jnp.arange(length))
    if key.time.shape != (length,):
        raise ValueError(f"the TimedKey names {key.time.size} steps, but the sequence has {length}")
    return key


def split(key: PRNGKeyArray | TimedKey | None, count: int) -> list:
    """Returns `count` independent keys for the same time steps (None gives None)."""
    if key is None:
        return [None] * count
    if isinstance(key, TimedKey):
        return [TimedKey(k, key.time) for k in jax.random.split(key.key, count)]
    return list(jax.random.split(key, count))


def keep_mask(
    key: PRNGKeyArray | TimedKey, rate: float, shape: tuple[int, ...], *, variational: bool
) -> Bool[Array, "T *B N"]:
    """Returns what is kept, false with probability `rate`, of shape ``[T, *batch, N]``.

    With `variational`, one mask a sequence, the same at every step (Gal and Ghahramani, 2016); else one a step.
    """
    length, *rest = shape
    key, time = timed(key, length)
    if variational:
        return jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, rest), shape)
    return jax.vmap(lambda t: jax.random.bernoulli(jax.random.fold_in(key, t), 1 - rate, rest))(time)


def scaled(kept: Bool[Array, "*N"], rate: float, dtype: DTypeLike) -> Float[Array, "*N"]:
    """Returns factors that leave the expected value as it is: 0, or ``1 / (1 - rate)`` for what is kept."""
    return kept.astype(dtype) / jnp.asarray(1 - rate, dtype)


def dropout_mask(
    key: PRNGKeyArray | TimedKey, rate: float, shape: tuple[int, ...], dtype: DTypeLike, *, variational: bool
) -> Float[Array, "T *B N"]:
    """Returns factors of 0 (with probability `rate`) or ``1 / (1 - rate)``, the masks being those of `keep_mask`."""
    return scaled(keep_mask(key, rate, shape, variational=variational), rate, dtype)
