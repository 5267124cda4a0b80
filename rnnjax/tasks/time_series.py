"""Predicts the next value of a function of time from earlier values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.wrappers import Project
from rnnjax.config import DataConfig, TrainConfig, build_cell
from rnnjax.data.dataset import NO_DATA
from rnnjax.data.series import load_series, longest_window, window_at
from rnnjax.errors import require
from rnnjax.memory import require_memory
from rnnjax.models.forecaster import Forecaster, continue_series
from rnnjax.tasks.task import Batch, Field, Kept, Request, Task, Values
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


def build(config: Config) -> Task:
    """Returns the task: windows `[B, T + 1]`, in which each value but the first is predicted from those before it."""
    require_memory(48 * config.windows * (config.window + 1), "the training windows", "lower windows")
    return dataclasses.replace(open_task(config, {}), data=load_series(config.windows, config.window, config.seed))


def open_task(config: Config, kept: Kept) -> Task:
    """Returns the task without data; it predicts the value after each of `xs`."""
    cell = build_cell(config.cell)
    cell = Project(cell, 1) if config.project else cell
    model = Forecaster(cell, 1, not config.project, jnp.dtype(config.dtype))

    def init(key: PRNGKeyArray) -> Any:
        return model.init(key, jnp.zeros((1, config.window, 1)))

    def predict(params: Any, xs: Float[Array, "B T 1"], rngs: Any = None) -> Float[Array, "B T 1"]:
        predicted: Any = model.apply(params, xs, rngs=rngs, deterministic=rngs is None)
        return predicted

    def values(params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Values, None]:
        window = batch["window"][..., None]  # [B, T + 1, 1], of which inputs and targets are T steps each
        predicted = predict(params, window[:, :-1], None if key is None else {"dropout": key})
        mse = jnp.square(predicted - window[:, 1:]).mean((1, 2))
        return {"loss": mse, "mse": mse}, carry

    def plots(params: Any, directory: Path) -> None:
        window = instance(config.window)
        predicted = jax.jit(predict)(params, window[None, :-1, None])[0, :, 0]
        plot_series(INSTANCE_START, config.window, directory)
        plot_prediction(INSTANCE_START, window, np.asarray(predicted), directory / "prediction.png")

    @jax.jit(static_argnums=2)
    def continued(params: Any, window: Float[Array, "T 1"], steps: int) -> Float[Array, "steps 1"]:
        return continue_series(lambda xs: predict(params, xs), window, steps)

    def generate(params: Any, request: Request) -> Iterator[str]:
        window, truth = prompt_window(request.prompt, config.window, request.length)
        following = np.asarray(continued(params, window[:, None], request.length))[:, 0]
        if request.plots is not None:
            plot_generated(window, following, truth, request.plots / "generated.png")
        return map("{:.6f}".format, following)

    return Task(
        NO_DATA,
        init,
        values,
        "mse",
        higher_is_better=False,
        plots=plots,
        generate=generate,
        cell=cell,
        model=model,
        inputs={"xs": Field(("B", "T", 1), "float32")},
        predict=lambda params, inputs: predict(params, inputs["xs"]),
    )


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
    require(prompt in (None, "zeros", "instance"), f'--prompt must be "zeros" or "instance", got {prompt!r}')
    if prompt != "instance":
        return np.zeros(steps, np.float32), None
    values = window_at(np.array([INSTANCE_START]), steps + length - 1)[0]
    return values[:steps], values[steps:]
