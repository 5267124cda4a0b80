"""The state of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def as_items(state: TrainState) -> dict[str, Any]:
    """Returns a state as the items of a checkpoint: the parameters, and everything else."""
    return {"params": state.params, "state": state.replace(params=None)}  # pyright: ignore[reportAttributeAccessIssue]


def from_items(items: Mapping[str, Any]) -> TrainState:
    """Returns the state of which `as_items` made the items."""
    return items["state"].replace(params=items["params"])


def initial_train_state(task: Task, optimizer: optax.GradientTransformation) -> Callable[[int], TrainState]:
    """Returns a function that makes the state before the first step from a seed, by one compiled program."""

    @jax.jit
    def initial(key: PRNGKeyArray) -> TrainState:
        params_key, run_key = jax.random.split(key)
        params = task.init(params_key)
        carry = jax.tree.map(jnp.array, task.carry)  # a copy, because the state's memory is donated
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry, run_key)

    return lambda seed: initial(jax.random.key(seed))


def require_room(task: Task, optimizer: optax.GradientTransformation, runs: int = 1) -> None:
    """Raises `ConfigError` if the states of `runs` runs need more memory than there is; allocates none."""

    def state() -> Any:
        params = task.init(jax.random.key(0))
        return params, optimizer.init(params)

    require_room_for(state, "the parameters and the optimiser's state", times=runs)
