"""Dense layers and embeddings as plain parameters, for models that are functions of cells."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class Dense(NamedTuple):
    """A dense layer, ``y = x w + b`` with ``w [I, O]`` and ``b [O]``, computed in the type of x."""

    w: Array
    b: Array

    def __call__(self, xs: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        return jnp.tensordot(xs, self.w.astype(xs.dtype), 1) + self.b.astype(xs.dtype)


def init_dense(key: PRNGKeyArray, input_size: int, size: int) -> Dense:
    """Returns fresh parameters of a layer in float32: w by Glorot and Bengio (2010), b zero."""
    w = jax.nn.initializers.glorot_uniform()(key, (input_size, size), jnp.float32)
    return Dense(w, jnp.zeros(size, jnp.float32))


def init_embedding(key: PRNGKeyArray, vocabulary_size: int, features: int) -> Float[Array, "V E"]:
    """Returns fresh embeddings in float32, with standard normal features.

    With smaller ones, such as of norm 1, a decoder can take long to learn more than the frequencies of the words.
    """
    return jax.random.normal(key, (vocabulary_size, features), jnp.float32)
