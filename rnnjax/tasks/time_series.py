"""Predicts the next value of a function of time from earlier values."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.wrappers import Project
from rnnjax.config import DataConfig, TrainConfig, build_cell
from rnnjax.data.dataset import DataSet
from rnnjax.data.series import load_series, longest_window, window_at
from rnnjax.errors import require
from rnnjax.memory import require_memory
from rnnjax.models.forecaster import Forecaster, continue_series
from rnnjax.tasks import task
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Stream
from rnnjax.tasks.time_series_plots import plot_generated, plot_prediction, plot_series

INSTANCE_START = 12.2


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    Attributes:
      windows: number of training windows; with one epoch, no step sees a window of another.
      window: number T of inputs in a window, 0.1 apart.
      project: whether predictions are the outputs of a `Project` cell; otherwise those of a dense layer.
    """

    task: str = "time_series"
    windows: int = 30_000
    window: int = 20
    project: bool = False
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="embedded"))

    def check(self) -> None:
        super().check()
        require(self.windows >= 1, f"windows must be at least 1, got {self.windows}")
        longest = longest_window()
        require(1 <= self.window <= longest, f"window must be from 1 to {longest}, got {self.window}")
        generated = self.data.name == "embedded" and self.data.path is None
        require(generated, 'the series is generated; leave data.path out and data.name at "embedded"')


class Task(task.Task):
    """Windows `[B, T + 1]`, in which each value but the first is predicted from those before it."""

    config: Config
    best_metric, higher_is_better = "mse", False

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        cell = build_cell(config.cell)
        self.cell = Project(cell, 1) if config.project else cell
        self.model = Forecaster(self.cell, 1, not config.project, jnp.dtype(config.dtype))
        self.inputs = {"xs": Field(("B", "T", 1), "float32")}
        self.stream = Stream(values_of_line, lambda outputs: f"{outputs[0]:.6f}")

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        require_memory(48 * config.windows * (config.window + 1), "the training windows", "lower windows")
        return load_series(config.windows, config.window, config.seed)

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        window = batch["window"][..., None]  # [B, T + 1, 1], of which inputs and targets are T steps each
        mse = jnp.square(self.apply(params, window[:, :-1], key=key) - window[:, 1:]).mean((1, 2))
        return {"loss": mse, "mse": mse}, carry

    def plots(self, params: Any, directory: Path) -> None:
        window = instance(self.config.window)
        predicted = jax.jit(self.apply)(params, window[None, :-1, None])[0, :, 0]
        plot_series(INSTANCE_START, self.config.window, directory)
        plot_prediction(INSTANCE_START, window, np.asarray(predicted), directory / "prediction.png")

    def generate(
        self, params: Any, *, prompt: str | None = None, length: int = 300, plots: Path | None = None
    ) -> Iterator[str]:
        window, truth = prompt_window(prompt, self.config.window, length)
        following = np.asarray(self._continued(params, window[:, None], length))[:, 0]
        if plots is not None:
            plot_generated(window, following, truth, plots / "generated.png")
        return map("{:.6f}".format, following)

    @functools.cached_property
    def _continued(self) -> Any:
        def continued(params: Any, window: Float[Array, "T 1"], steps: int) -> Float[Array, "steps 1"]:
            return continue_series(functools.partial(self.apply, params), window, steps)

        return jax.jit(continued, static_argnums=2)


def values_of_line(line: str) -> list[Float[np.ndarray, " 1"]]:
    """Returns the values of a line, one a step.

    Raises:
      ValueError: if there is none, or anything but numbers.
    """
    try:
        numbers = [float(word) for word in line.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"a line must be numbers, such as 0.25 0.5, got {line!r}")
    return [np.array([number], np.float32) for number in numbers]


def instance(steps: int) -> Float[np.ndarray, "steps+1"]:
    """Returns the window that plots show, which starts at t = 12.2."""
    return window_at(np.array([INSTANCE_START]), steps)[0]


def prompt_window(
    prompt: str | None, steps: int, length: int
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " length"] | None]:
    """Returns the values that a prompt stands for, and the following values of the function, if there are any.

    Args:
      prompt: "zeros" (for which None stands) or "instance".
      steps: number of values of the prompt.
      length: number of values after them.

    Raises:
      ConfigError: for another prompt.
    """
    require(prompt in (None, "zeros", "instance"), f'the prompt must be "zeros" or "instance", got {prompt!r}')
    if prompt != "instance":
        return np.zeros(steps, np.float32), None
    values = window_at(np.array([INSTANCE_START]), steps + length - 1)[0]
    return values[:steps], values[steps:]
