"""A task's training as its command does it, as a call that can be timed, unrolled in any way; and PyTorch beside it.

Only what a training step needs is imported, so that it runs where the packages of the commands are not installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks.kernel_contenders import KERNELS, LOOPS
from rnnjax import Method
from rnnjax.config import TrainConfig
from rnnjax.errors import ConfigError
from rnnjax.optimizer import build_optimizer
from rnnjax.parallel.mesh import batch_mesh, device_counts
from rnnjax.tasks.task import Task
from rnnjax.training.batches import device_feed, epoch_orders, epoch_steps
from rnnjax.training.program import TrainProgram, place_state
from rnnjax.training.state import initial_train_state
from rnnjax.unrolling.auto import choosing

METHODS: dict[str, Callable[[], Method | None]] = {
    "auto": lambda: None,
    **LOOPS,
    **KERNELS,
}


def rnnjax_calls(task: Task, config: TrainConfig, methods: Sequence[str], steps: int) -> dict[str, Callable[[], Any]]:
    """Returns a `training_call` for each way of unrolling; "auto" is the one that training takes by itself."""
    names = {"rnnjax" if method == "auto" else f"rnnjax {method}": method for method in methods}

    def lazily(method: str) -> Callable[[], Any]:
        made: list[Callable[[], Any]] = []

        def call() -> Any:
            if not made:  # only now, so that what a method cannot do is said when it is called
                made.append(training_call(task, config, METHODS[method](), steps))
            return made[0]()

        return call

    return {name: lazily(method) for name, method in names.items()}


def training_call(task: Task, config: TrainConfig, method: Method | None, steps: int) -> Callable[[], Any]:
    """Returns a call that takes the first steps of an epoch in one program, resuming from its state."""
    epoch = epoch_steps(task, config.batch_size)
    optimizer = build_optimizer(config.optimizer, epoch * config.epochs, epoch)
    devices = device_counts(config.parallel.batch, config.batch_size)[0]
    mesh = batch_mesh(str(devices), config.batch_size, config.parallel.layers, config.parallel.time)
    feed = device_feed(mesh, task.data.splits["train"])
    program = TrainProgram(task, optimizer, mesh, feed, config.batch_size, config.parallel.map)
    order = epoch_orders(mesh, task, config.seed, config.batch_size)(0).part(0, steps)
    state = place_state(mesh, initial_train_state(task, optimizer)(config.seed))

    def call() -> Any:
        nonlocal state
        with choosing(lambda cell: method):
            state, metrics = program(state, order)
        return jax.block_until_ready(metrics["loss"])

    return call


def working(calls: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Returns the calls that work, having made each once, and what the others say."""
    able, reasons = {}, {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # a kernel may fail in any way, and the others are to be timed all the same
            reasons[name] = " ".join(str(error).split())[:200] or type(error).__name__
        else:
            able[name] = call
    return able, reasons


@functools.cache
def torch_module() -> Any:
    """Returns PyTorch.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError('this benchmark needs PyTorch; install it with: pip install "rnnjax[bench]"') from None
    return torch


def torch_device() -> str:
    """Returns the processor, or the first CUDA device where JAX is on one; products there may be in TF32, as JAX's."""
    if jax.default_backend() != "gpu":
        return "cpu"
    torch_module().set_float32_matmul_precision("high")
    return "cuda"
