"""The state of a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray

from rnnjax.memory import require_room_for
from rnnjax.tasks.task import Task


@struct.dataclass
class TrainState:
    """All that a training step reads and changes.

    Attributes:
      step: number of steps taken.
      params: parameters of the model.
      opt_state: state of the optimiser.
      carry: recurrent state handed from batch to batch; None where each batch starts afresh.
      key: PRNG key of the run; step t draws from the key folded with t.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    carry: Any
    key: PRNGKeyArray


def initial_train_state(task: Task, optimizer: optax.GradientTransformation) -> Callable[[int], TrainState]:
    """Returns a function of the seed: the state before the first step, made by one compiled program."""

    @jax.jit
    def initial(key: PRNGKeyArray) -> TrainState:
        k_params, k_run = jax.random.split(key)
        params = task.init(k_params)
        carry = jax.tree.map(jnp.array, task.carry)  # a copy, because the state's memory is given away
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry, k_run)

    return lambda seed: initial(jax.random.key(seed))


def require_room(task: Task, optimizer: optax.GradientTransformation, runs: int = 1) -> None:
    """Raises `ConfigError` if the states of so many runs need more memory than there is, before any of it is taken."""

    def state() -> Any:
        params = task.init(jax.random.key(0))
        return params, optimizer.init(params)

    require_room_for(state, "the parameters and the optimiser's state", times=runs)
