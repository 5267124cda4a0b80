"""The states of runs: as they begin, as checkpoints keep them, and on the devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from rnnjax.config import TrainConfig
from rnnjax.memory import devices_apart, require_memory, require_room_for
from rnnjax.optimizer import Averaged
from rnnjax.parallel.mesh import EVERYWHERE, padded_runs, place
from rnnjax.tasks.task import Task
from rnnjax.training.step import STATE, STATES, TrainState


def as_items(state: TrainState) -> dict[str, Any]:
    """Returns a state as the items of a checkpoint: the parameters that are evaluated, and everything else."""
    state = _exchanged(state)
    return {"params": state.params, "state": state.replace(params=None)}  # pyright: ignore[reportAttributeAccessIssue]


def from_items(items: Mapping[str, Any]) -> TrainState:
    """Returns the state of which `as_items` made the items."""
    return _exchanged(items["state"].replace(params=items["params"]))


def with_params(state: TrainState, params: Any) -> TrainState:
    """Returns a state that begins with other parameters, from which a running average of them begins too."""
    averaged: Any = from_items(as_items(state) | {"params": params})
    return averaged.replace(params=params)


def _exchanged(state: TrainState) -> TrainState:
    """Returns a state with the average of the parameters in the place of them, and these in that of the average."""
    if not isinstance(state.opt_state, Averaged):
        return state
    average, others = state.opt_state.average, state.opt_state._replace(average=state.params)
    return state.replace(params=average, opt_state=others)  # pyright: ignore[reportAttributeAccessIssue]


def initial_train_state(task: Task, optimizer: optax.GradientTransformation) -> Callable[[int], TrainState]:
    """Returns a function that makes the state before the first step from a seed, by one compiled program."""

    @jax.jit
    def initial(key: PRNGKeyArray) -> TrainState:
        params_key, run_key = jax.random.split(key)
        params = task.init(params_key)
        carry = jax.tree.map(jnp.array, task.carry)  # a copy, because the state's memory is donated
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry, run_key)

    return lambda seed: initial(jax.random.key(seed))


def require_room(task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, runs: int = 1) -> None:
    """Raises `ConfigError` if runs cannot fit into memory, before anything is allocated or compiled for them.

    Counted is what is there at every moment of training: the states, the data that stays on the devices and one batch.
    What a step keeps for its gradient is not, since the compiler decides on it: `rnnjax.memory.program_that_fits` asks
    once the step is compiled.

    Args:
      task: the task of all runs.
      config: the config of all runs.
      optimizer: the optimiser.
      runs: number of runs.
    """

    def state() -> Any:
        params = task.init(jax.random.key(0))
        return params, optimizer.init(params)

    runs = math.ceil(runs / devices_apart())
    states = require_room_for(state, "the parameters and the optimiser's state", times=runs)
    batch = math.ceil(runs * _bytes_of_batch(task, config.batch_size) / devices_apart())
    if config.data.feed == "device":
        what, remedy = "a batch, the states and the data, which stays on the devices,", "take data.feed=host"
        batch += sum(array.nbytes for array in task.data.splits["train"].values())
    else:
        what, remedy = "a batch and the states", "lower the model's sizes"
    require_memory(states + batch, what, f"lower batch_size, or {remedy}")


def _bytes_of_batch(task: Task, batch_size: int) -> int:
    """Returns the bytes of a batch at least: where there are buckets, examples are cut to the width of one."""
    if task.buckets is not None:
        return 0
    return batch_size * sum(array[:1].nbytes for array in task.data.splits["train"].values())


def stack(states: Sequence[PyTree[Shaped[Array, "..."]]]) -> PyTree[Shaped[Array, "runs ..."]]:
    """Returns pytrees of the same structure stacked along a new leading axis."""
    return jax.jit(lambda *states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))(*states)


def place_state(mesh: Mesh, state: TrainState) -> TrainState:
    """Returns the state of one run, without an axis of runs, on the devices."""
    return jax.tree.map(lambda spec, part: place(mesh, spec, part), STATE, state)


def as_only_run(mesh: Mesh, state: TrainState) -> TrainState:
    """Returns the state that `place_state` has placed with an axis of runs, as the engine takes it."""
    stacked = jax.jit(
        lambda state: jax.tree.map(lambda leaf: leaf[None], state), out_shardings=_shardings(mesh, STATES)
    )
    return stacked(state)


def only_run(mesh: Mesh) -> Callable[[TrainState], TrainState]:
    """Returns a function that copies the state of the only run, without an axis of runs."""
    return jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[0], states), out_shardings=_shardings(mesh, STATE))


def place_states(mesh: Mesh, states: TrainState) -> TrainState:
    """Returns the states of many runs on the devices, padded as by `padded_runs`."""
    runs = padded_runs(mesh, len(states.step))
    # Without padding the states are the runs, and need no gathering.
    if len(runs) > len(states.step):
        states = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[runs], states))(states)
    return jax.device_put(states, _shardings(mesh, STATES))


def first_runs(mesh: Mesh, runs: int) -> Callable[[TrainState], TrainState]:
    """Returns a function that copies the states of the first `runs` runs, without padding, to every device."""
    everywhere = NamedSharding(mesh, EVERYWHERE)
    return jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[:runs], states), out_shardings=everywhere)


def params_of_run(params: Any, index: int) -> Any:
    """Returns the parameters of one run of those of many, each leaf ``[runs, ...]``, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(np.asarray(leaf)[index]), params)


def _shardings(mesh: Mesh, specs: TrainState) -> TrainState:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
