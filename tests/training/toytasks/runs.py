"""Tasks and runs that tests are made of."""

import copy
import dataclasses
import functools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixtures.shared_programs import meaning
from tensorboardX.proto.event_pb2 import Event

from rnnjax.config import CellConfig, OptimizerConfig, ParallelConfig, TrainConfig
from rnnjax.config_group import freeze, from_dict, to_dict
from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.optimizer import build_optimizer
from rnnjax.tasks import build_task
from rnnjax.tasks.task import Task
from rnnjax.training.directory.checkpoint import Checkpoints
from rnnjax.training.directory.opened import restore_params
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory
from rnnjax.training.loop import train
from rnnjax.training.state import as_items, from_items, initial_train_state
from toytasks import sign


def sign_config(**fields: Any) -> sign.Config:
    """A config of the toy task, frozen: one device, batches of 8, three epochs unless said otherwise."""
    fields = {
        "epochs": 3,
        "batch_size": 8,
        "log_every": 4,
        "cell": CellConfig(hidden_size=4),
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "parallel": ParallelConfig(batch="1"),
        **fields,
    }
    return freeze(sign.Config(**fields))


def line_config(**fields: Any) -> TrainConfig:
    """A config for a task made in the test."""
    fields = {
        "epochs": 1,
        "batch_size": 4,
        "log_every": 1,
        "optimizer": OptimizerConfig(name="sgd", learning_rate=0.1),
        "parallel": ParallelConfig(batch="1"),
        **fields,
    }
    return freeze(TrainConfig(**fields))


def data_set(**splits: dict[str, np.ndarray]) -> DataSet:
    """A data set; a split that is not given is the training split."""
    splits = {name: splits.get(name, splits["train"]) for name in ("train", "validation", "test")}
    return DataSet("made", splits, "made in the test", content_checksum(splits))


def numbered(count: int, **fields: np.ndarray) -> dict[str, np.ndarray]:
    """A split whose example i has ``id`` 2 ** i, so that a sum of ids says which examples are in it."""
    return {"id": 2.0 ** np.arange(count, dtype=np.float32), **fields}


def made_task(
    data: DataSet, init: Any, loss: Any, best_metric: str = "accuracy", higher_is_better: bool = True, **others: Any
) -> Task:
    """A task made of functions; the others are attributes, and functions in place of methods."""
    functions = {"init": init, "loss": loss, "best_metric": best_metric, "higher_is_better": higher_is_better}
    return changed(Task(None, data), **functions, **others)


def changed(task: Task, **others: Any) -> Task:
    """The same task with other attributes, and functions in place of methods."""
    task = copy.copy(task)
    vars(task).update(others)
    return task


def counting_task(train_examples: int, **options: Any) -> Task:
    """A task that learns nothing and whose metric `id` is the example's own."""

    def loss(params, carry, batch, key):
        return {"loss": 0 * params["w"] + 1 + 0 * batch["id"], "accuracy": 0 * batch["id"], "id": batch["id"]}, carry

    data = data_set(train=numbered(train_examples), **options.pop("splits", {}))
    return made_task(data, lambda key: {"w": jnp.zeros(())}, loss, **options)


def examples_in(id_sum: float) -> set[int]:
    """The examples whose ids add up to a number."""
    return {i for i in range(24) if round(id_sum) >> i & 1}


@dataclasses.dataclass
class Run:
    """A run that has ended: what it wrote, its summary and its last state."""

    directory: RunDirectory
    summary: dict[str, Any]
    config: TrainConfig
    task: Task

    @functools.cached_property
    def state(self) -> Any:
        """The state in the last checkpoint."""
        return last_checkpoint(self.directory.path, self.config, self.task)[1]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return self.directory.metrics()

    def of(self, split: str, name: str) -> list[float]:
        return [row[name] for row in self.metrics if row["split"] == split]


def run_training(path: Path, config: TrainConfig, task: Task | None = None) -> Run:
    """Trains in a directory, from its last checkpoint if it has one."""
    task = task or build_task(config)
    directory = RunDirectory(path)
    directory.claim(to_dict(config))
    summary = train(task, config, directory)
    return Run(directory, summary, config, task)


def last_checkpoint(path: Path, config: TrainConfig, task: Task | None = None) -> tuple[int, Any]:
    """The step of the last checkpoint of a run that is whole, and its state."""
    task = task or build_task(config)
    like = as_items(state_like(config, task))
    step, items = with_checkpoints(path, task, lambda checkpoints: checkpoints.restore_last(like))
    return step, from_items(items)


def params_of(run: RunDirectory, which: str = "best") -> tuple[int, Any]:
    """Step and parameters of a checkpoint of a run of the toy task."""
    task = build_task(freeze(from_dict(sign.Config, run.config())))
    return restore_params(run, task, which, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def state_like(config: TrainConfig, task: Task) -> Any:
    """A state of the shapes of a run's, made once for all runs that are alike."""
    key = json.dumps(to_dict(config), sort_keys=True), meaning(task.init), meaning(jax.tree.leaves(task.carry))
    if key not in _STATES:
        optimizer = build_optimizer(config.optimizer, 10**6, frozen=config.frozen)
        _STATES[key] = initial_train_state(task, optimizer)(config.seed)
    return _STATES[key]


_STATES = {}


def with_checkpoints(path: Path, task: Task, use: Callable[[Checkpoints], Any]) -> Any:
    """What `use` returns of the checkpoints of a run."""
    run = RunDirectory(path)
    with open_checkpoints(run, task, run.config()) as checkpoints:
        return use(checkpoints)


def scalars(directory: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar in TensorBoard's event files, oldest file first."""
    found = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for event in events(path):
            values = [value for value in event.summary.value if value.WhichOneof("value") == "simple_value"]
            found += [(value.tag, event.step, value.simple_value) for value in values]
    return found


def summaries(path: Path) -> list[Any]:
    """All that an event file has."""
    return [value for event in events(path) for value in event.summary.value]


def events(path: Path) -> list[Any]:
    """The events of a file, whose records are a length, 4 bytes, an event and 4 bytes."""
    found, content, at = [], path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        found.append(Event.FromString(content[at + 12 : at + 12 + length]))
        at += 16 + length
    assert at == len(content)
    return found


def leaves(state: Any) -> list[np.ndarray]:
    """All numbers of a state, PRNG keys included."""

    def plain(leaf: Any) -> np.ndarray:
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf)

    return [plain(leaf) for leaf in jax.tree.leaves(state)]


def assert_identical(one: Any, other: Any) -> None:
    """Asserts that two states are equal bit by bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same_run(one: Run, other: Run) -> None:
    """Asserts that two runs wrote the same metrics and ended in the same state, bit by bit."""
    assert one.metrics == other.metrics
    assert_identical(one.state, other.state)
