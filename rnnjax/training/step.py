"""One training step and one evaluation, as pure functions of one device's part of a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rnnjax.parallel.batch import sum_over
from rnnjax.tasks.task import Batch, Task, Values, Weighted
from rnnjax.training.state import TrainState
from rnnjax.unrolling.varying import vary, varying_axes

Sums = dict[str, Weighted]  # for each metric the sum of its weighted values, and that of its weights


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    axis: str,
    state: TrainState,
    batch: Batch,
    weight: Float[Array, " B"] | float = 1.0,
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step; returns the new state and the metrics' means over the batch.

    Runs inside `jax.shard_map` or `jax.pmap`: `batch` is this device's part, `axis` the mapped axis over which
    gradients and metrics are averaged; weight 0 marks padding. Every device draws its own dropout masks.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index(axis))

    def total_loss(params: Any) -> tuple[Array, tuple[Sums, Any]]:
        values, carry = task.values(params, state.carry, batch, key)
        sums = metric_sums(values, weight)
        return sums["loss"].value, (sums, carry)

    # A gradient is summed over the devices on its own where the parameters are known to be equal on all of them;
    # declaring them different keeps it this device's, to be summed once, with the metrics.
    params = vary(state.params, varying_axes(jax.lax.axis_index(axis)))
    gradients, (sums, carry) = jax.grad(total_loss, has_aux=True)(params)
    gradients, sums = sum_over(axis, (gradients, sums))
    gradients = jax.tree.map(lambda gradient: mean(Weighted(gradient, sums["loss"].weight)), gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {name: mean(total) for name, total in sums.items()}
    return TrainState(state.step + 1, params, opt_state, jax.lax.stop_gradient(carry), state.key), metrics


def evaluation_sums(
    task: Task, axis: str, params: Any, carry: Any, batch: Batch, weight: Float[Array, " B"]
) -> tuple[Any, Sums]:
    """Returns the new carry and the sums of the metrics over the whole batch; weight 0 marks padding."""
    values, carry = task.values(params, carry, batch, None)
    return carry, sum_over(axis, metric_sums(values, weight))


def metric_sums(values: Values, weight: Float[Array, " B"] | float = 1.0) -> Sums:
    """Returns the weighted sums of every metric and of its weights, each example weighted by `weight` besides."""

    def sums(value: Array | Weighted) -> Weighted:
        value, own = value if isinstance(value, Weighted) else Weighted(value, jnp.ones_like(value))
        weights = (own * weight).astype(jnp.float32)
        return Weighted((value.astype(jnp.float32) * weights).sum(), weights.sum())

    return {name: sums(value) for name, value in values.items()}


def mean(total: Weighted) -> Array:
    """Returns the mean from a weighted sum and its weight; zero where nothing counts."""
    return total.value / jnp.where(total.weight > 0, total.weight, 1).astype(total.value.dtype)
