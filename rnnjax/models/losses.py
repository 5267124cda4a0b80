"""Losses of sequences whose steps have different weights."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

Targets = Int[Array | np.ndarray, "*B T"]
Weights = Float[Array | np.ndarray, "*B T"] | Bool[Array | np.ndarray, "*B T"]


def sequence_loss(
    logits: Float[Array, "*B T V"], targets: Targets, weights: Weights | None = None
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Returns the mean cross-entropy of each sequence, in nats a step, and the sum of its weights.

    loss = sum_t weights_t token_losses_t / sum_t weights_t

    The mean of the losses, weighted by the sums, is TensorFlow 1's `seq2seq.sequence_loss`: every step of the batch
    counts by its own weight, however long its sequence is. Steps of weight 0 change neither the loss nor a gradient,
    whatever they contain (NaN, or a target that is no class). A sequence of such steps only has loss 0 and sum 0.

    Args:
      logits: a score for each class, ``[*batch, T, V]``.
      targets: the true classes ``[*batch, T]``, from 0 to V - 1.
      weights: weights of the steps ``[*batch, T]``, not negative, such as 1 for valid steps and 0 for padding; None:
        1 everywhere.

    Raises:
      ValueError: if the shapes do not fit.
    """
    if weights is None:
        return mean_over_steps(token_losses(logits, targets))
    _check_shape("weights", weights, logits)
    counts = jnp.asarray(weights).astype(bool)
    losses = token_losses(jnp.where(counts[..., None], logits, 0), jnp.where(counts, targets, 0))
    return mean_over_steps(losses, weights)


def token_losses(logits: Float[Array, "*B T V"], targets: Targets) -> Float[Array, "*B T"]:
    """Returns the cross-entropy of every step, ``-log softmax(logits)[target]``, in nats and in float32.

    Raises:
      ValueError: if the shapes do not fit.
    """
    _check_shape("targets", targets, logits)
    logits = jnp.asarray(logits).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(targets))


def mean_over_steps(
    values: Float[Array, "*B T"], weights: Weights | None = None
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Returns each sequence's weighted mean over its steps, and the sum of the weights.

    Without weights all steps count the same; if all weights are 0, so is the mean. `sequence_loss` takes the same mean,
    with which metrics of the steps, such as accuracy, can be compared.
    """
    values = jnp.asarray(values)
    weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights).astype(values.dtype)
    total = weights.sum(-1)
    sums = jnp.where(weights != 0, values * weights, 0).sum(-1)
    return sums / jnp.where(total == 0, 1, total), total


def _check_shape(name: str, values: Any, logits: Array) -> None:
    """Raises unless there is one value for each step of the logits."""
    expected = np.shape(logits)[:-1]
    if np.shape(values) != expected:
        raise ValueError(f"{name} must have shape [*batch, T] = {list(expected)}, got {list(np.shape(values))}")
