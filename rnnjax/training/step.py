"""The state of a run, and the step from one to the next: pure functions of one device's part of a batch.

They are called inside `jax.shard_map` or `jax.pmap` over the axes of a mesh. Examples are split over that of the batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.optimizer import Averaged, Optimizer
from rnnjax.parallel.mesh import BATCH, EVERYWHERE, RUNS, sum_over
from rnnjax.tasks.checks import checked_loss
from rnnjax.tasks.task import Batch, Sums, Task, mean, metric_sums
from rnnjax.unrolling.varying import vary, varying_axes


@struct.dataclass
class TrainState:
    """Everything that a training step reads and changes.

    Attributes:
      step: number of steps taken.
      params: parameters of the model.
      opt_state: state of the optimiser.
      carry: recurrent state that is passed from batch to batch; None if each batch starts from the initial state.
      key: PRNG key of the run; step t draws from the key folded with t.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    carry: Any
    key: PRNGKeyArray

    @property
    def evaluated(self) -> Any:
        """The parameters to evaluate and keep: their running average if there is one, else `params`."""
        return self.opt_state.average if isinstance(self.opt_state, Averaged) else self.params


_SPECS: Any = (EVERYWHERE, EVERYWHERE, EVERYWHERE, PartitionSpec(BATCH), EVERYWHERE)
STATE = TrainState(*_SPECS)
"""How a state is split over the devices of a mesh: all but the carry is whole."""

STATES: Any = jax.tree.map(lambda spec: PartitionSpec(RUNS, *spec), STATE)
"""How the states of runs are: behind the axis of runs likewise."""


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    weight: Float[Array, " B"] | float = 1.0,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Takes one training step. Every device draws its own dropout masks.

    Args:
      task: the task.
      optimizer: updates the parameters.
      state: the state before the step.
      batch: this device's part of the batch, each field ``[B, ...]``.
      weight: the weight of each example; 0 marks padding.

    Returns:
      the state after the step, and the mean of every metric over the whole batch, with those of `of_optimizer`.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index(BATCH))

    def total_loss(params: Any) -> tuple[Array, tuple[Sums, Any]]:
        values, carry = checked_loss(task, params, state.carry, batch, key)
        sums = metric_sums(values, weight)
        return sums["loss"].value, (sums, carry)

    # If parameters are known to be equal on all devices, JAX sums each leaf's gradient over them by a collective of its
    # own. Declaring that parameters vary leaves gradients local, to be summed together with the metrics.
    params = vary(state.params, varying_axes(jax.lax.axis_index(BATCH)))
    # The carry is an auxiliary output, so that no gradient reaches from one batch into the one before.
    gradients, (sums, carry) = jax.grad(total_loss, has_aux=True)(params)
    gradients, sums = sum_over(BATCH, (gradients, sums))
    gradients = jax.tree.map(lambda gradient: mean(gradient, sums["loss"].weight), gradients)
    # `state.params`, not the ones marked above: gradients are equal on all devices now, so new parameters are too.
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {name: mean(*total) for name, total in sums.items()} | of_optimizer(optimizer, state, gradients, updates)
    return TrainState(state.step + 1, params, opt_state, carry, state.key), metrics


def of_optimizer(
    optimizer: optax.GradientTransformation, state: TrainState, gradients: Any, updates: Any
) -> dict[str, Float[Array, ""]]:
    """Returns what a step tells of the optimiser: the learning rate, if it is known, and the norms over all parameters.

    Args:
      optimizer: the optimiser.
      state: before the step.
      gradients: as they are before they are clipped.
      updates: what the step adds to the parameters.
    """
    norms = {"gradient_norm": _norm(gradients), "update_norm": _norm(updates)}
    rate = {"learning_rate": optimizer.learning_rate(state.step)} if isinstance(optimizer, Optimizer) else {}
    return {name: jnp.asarray(value, jnp.float32) for name, value in (rate | norms).items()}


def _norm(tree: Any) -> Float[Array, ""]:
    squares = [jnp.square(jnp.abs(leaf).astype(jnp.float32)).sum() for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def evaluation_sums(task: Task, params: Any, carry: Any, batch: Batch, weight: Float[Array, " B"]) -> tuple[Any, Sums]:
    """Evaluates one batch.

    Args:
      task: the task.
      params: parameters of the model.
      carry: recurrent state before the batch.
      batch: this device's part of the batch, each field ``[B, ...]``.
      weight: the weight of each example; 0 marks padding.

    Returns:
      the recurrent state after the batch, and the sums of every metric over the whole batch.
    """
    values, carry = checked_loss(task, params, carry, batch, None)
    return carry, sum_over(BATCH, metric_sums(values, weight))
