"""One training step and one evaluation, as pure functions of one device's part of a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rnnjax.parallel.batch import mean_over, sum_over
from rnnjax.tasks.task import Batch, Task
from rnnjax.training.state import TrainState


def train_step(
    task: Task, optimizer: optax.GradientTransformation, axis: str, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step; returns the new state and the metrics' means over the batch.

    Runs inside `jax.shard_map` or `jax.pmap`: `batch` is this device's part, `axis` the mapped axis over which
    gradients and metrics are averaged. Every device draws its own dropout masks.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index(axis))

    def mean_loss(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
        values, carry = task.values(params, state.carry, batch, key)
        means = {name: value.mean(dtype=jnp.float32) for name, value in values.items()}
        return means["loss"], (means, carry)

    # A gradient is summed over the devices on its own where the parameters are known to be equal on all of them;
    # declaring them different keeps it this device's, to be averaged once, with the metrics.
    params = jax.lax.pcast(state.params, axis, to="varying")
    gradients, (metrics, carry) = jax.grad(mean_loss, has_aux=True)(params)
    gradients, metrics = mean_over(axis, (gradients, metrics))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state, jax.lax.stop_gradient(carry), state.key), metrics


def evaluation_sums(
    task: Task, axis: str, params: Any, carry: Any, batch: Batch, weight: Float[Array, " B"]
) -> tuple[Any, dict[str, Float[Array, ""]]]:
    """Returns the new carry and the weighted sums of the metrics over the whole batch; weight 0 marks padding."""
    values, carry = task.values(params, carry, batch, None)
    return carry, sum_over(axis, {name: (value * weight).sum() for name, value in values.items()})
