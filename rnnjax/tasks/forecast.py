"""Forecasts a series of your own, beside forecasts that need no model."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rnnjax.config import TrainConfig, build_cell
from rnnjax.data.dataset import NO_DATA, Arrays
from rnnjax.data.own.baselines import seasonal_forecast
from rnnjax.data.own.files import own_files
from rnnjax.data.own.series import OwnSeries, Wanted, load_series
from rnnjax.data.own.series_file import read_series
from rnnjax.data.own.windows import SeriesReading, Sizes, known_values, read_windows, traced_windows, window_starts
from rnnjax.errors import DataError, require
from rnnjax.memory import require_memory
from rnnjax.models.forecaster import HorizonForecaster
from rnnjax.tasks.forecast_plots import plot_following, plot_forecasts
from rnnjax.tasks.own_data import OwnConfig
from rnnjax.tasks.task import Batch, Field, Kept, Request, Task, Values, Weighted

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class ForecastConfig(OwnConfig):
    """A series of your own: a csv file with a column for each variable.

    A file is cut by time: validation and test are at its end.

    Attributes:
      targets: the columns that are forecast; none takes all that are read.
      stride: steps from one window of training to the next.
    """

    targets: tuple[str, ...] = ()
    stride: int = 1

    def check(self) -> None:
        super().check()
        require(self.stride >= 1, f"data.stride must be at least 1, got {self.stride}")


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    Attributes:
      window: number of steps that a forecast reads.
      horizon: number of steps that it is of.
      season: steps of a season, for the seasonal-naive baseline; 0 finds it in the training split, 1 says that there is
        none.
      relative: whether windows are read as differences to the last known values, so that a level that training has not
        seen changes nothing.
    """

    task: str = "forecast"
    window: int = 48
    horizon: int = 12
    season: int = 0
    relative: bool = True
    data: ForecastConfig = dataclasses.field(default_factory=ForecastConfig)

    def check(self) -> None:
        super().check()
        for name in ("window", "horizon"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        fits = 0 <= self.season <= self.window
        require(fits, f"season must be from 0 to window, {self.window}, got {self.season}")

    def sizes(self) -> Sizes:
        """Returns how the series becomes windows."""
        data = self.data
        return Sizes(self.window, self.horizon, data.stride, data.validation_fraction, data.test_fraction, data.whole)

    def wanted(self) -> Wanted:
        """Returns what is read of the series, and how."""
        data = self.data
        return Wanted(data.time, data.features, data.targets, data.scale, self.relative, self.season)


class Forecasts(NamedTuple):
    """What was forecast and what came, in the units of the columns, each ``[N, H, K]``."""

    predicted: Float[np.ndarray, "N H K"]
    truth: Float[np.ndarray, "N H K"]
    counted: Bool[np.ndarray, "N H K"]


def build(config: Config, kept: Kept | None = None) -> Task:
    """Returns the task: windows `[B, W, F]` of a series, from each of which the next H steps are predicted at once.

    `loss` is the mean squared error of scaled values; `mse` and `mae` are in the units of the columns, means over them.
    In evaluation there are those of the naive forecast (the last value again) and of the seasonal-naive one (the last
    season again) of the same windows, and the mean absolute error of each column where there are several.

    Args:
      config: the config.
      kept: how a run reads a series, if this one is to be read so; otherwise it is learnt from it.

    Raises:
      DataError: as `rnnjax.data.own.series.load_series`.
    """
    assert config.data.path is not None
    reading = SeriesReading.from_json(kept) if kept else None
    own = load_series(config.data.path, config.wanted(), config.sizes(), reading)
    task = open_task(config, own.reading.to_json())
    of_split = forecasts_of(jax.jit(functools.partial(forecast, task.model)), own, config.batch_size)

    def score(params: Any, split: str) -> dict[str, float]:
        found = of_split(params, split)
        scores = column_scores(found, own.reading.names) | baseline_scores(own, split, config.sizes(), found)
        if split == "test":
            _log.info("%s", baseline_sentence(errors(found), scores, own.reading.season))
        return scores

    def plots(params: Any, directory: Path) -> None:
        plot_forecasts(*of_split(params, "test"), own.reading.names, directory / "forecast.png")

    return dataclasses.replace(task, data=own.data, score=score, plots=plots)


def open_task(config: Config, kept: Kept) -> Task:
    """Returns the task without data; it predicts what follows windows of values, NaN where missing, in their units."""
    reading = SeriesReading.from_json(kept)
    cell, targets = build_cell(config.cell), len(reading.targets)
    require_memory(4 * cell.output_size * config.horizon * targets, "the output layer", "lower horizon")
    model = HorizonForecaster(cell, config.horizon, targets, jnp.dtype(config.dtype))
    scale = np.array([reading.scaling.scale[column] for column in reading.targets], np.float32)

    def init(key: PRNGKeyArray) -> Any:
        return model.init(key, jnp.zeros((1, 1, reading.scaling.size)), jnp.zeros((1, targets)))

    def values(params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Values, None]:
        predicted = forecast(model, params, batch, None if key is None else {"dropout": key})
        return judged(predicted - batch["following"], batch["counted"], scale), carry

    def predict(params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B H K"]:
        windows = traced_windows(jnp.asarray(inputs["values"], jnp.float32), reading)
        return reading.unscaled(forecast(model, params, windows))

    def generate(params: Any, request: Request) -> Iterator[str]:
        require(request.prompt is None, "a forecast follows the end of the data; leave --prompt out, and give --data")
        end = series_end(config, reading)
        window = read_windows(end, reading, np.zeros(1, int), len(end))  # in 64 bits, as the data of training was
        predicted = np.asarray(jax.jit(functools.partial(forecast, model))(params, window))
        following = reading.unscaled(predicted)[0, : request.length]
        if request.plots is not None:
            plot_following(end[:, reading.targets], following, reading.names, request.plots / "generated.png")
        yield ",".join(reading.names)
        yield from (",".join(map("{:.6g}".format, row)) for row in following)

    return Task(
        NO_DATA,
        init,
        values,
        "loss",
        higher_is_better=False,
        generate=generate,
        kept=kept,
        cell=cell,
        model=model,
        inputs={"values": Field(("B", config.window, len(reading.scaling.names)), "float32")},
        predict=predict,
    )


def forecast(model: HorizonForecaster, params: Any, batch: Batch, rngs: Any = None) -> Float[Array, "B H K"]:
    """Returns the scaled values that a model predicts to follow windows.

    Args:
      model: the model.
      params: its parameters.
      batch: the windows.
      rngs: with the key of dropout; None drops nothing.
    """
    apply: Any = model.apply
    return apply(params, batch["inputs"], batch["last"], mask=batch.get("mask"), rngs=rngs, deterministic=rngs is None)


def series_end(config: Config, reading: SeriesReading) -> Float[np.ndarray, "W C"]:
    """Returns the last window of the data as it is now; of the training's, if the file is gone.

    Raises:
      DataError: if the file cannot be read, or is shorter than a window.
    """
    path = Path(os.path.expanduser(config.data.path or ""))
    if not path.exists():
        _log.info("%s is gone: what follows is forecast from the end of the data as it was in training", path)
        return reading.end
    files = own_files(str(path), (".csv",))
    series = read_series(files.get("all", files.get("test", path)), config.data.time, reading.scaling.names)
    if len(series.values) < config.window:
        raise DataError(f"{path} has {len(series.values)} steps, and a forecast reads {config.window}: give more")
    return series.values[-config.window :]


def judged(errors: Float[Array, "B H K"], counted: Bool[Array, "B H K"], scale: Float[np.ndarray, " K"]) -> Values:
    """Returns the metrics of each example from its errors, those of missing values left out.

    Args:
      errors: of scaled values.
      counted: which values are not missing.
      scale: what brings each column back to its units.
    """
    errors, weight = jnp.where(counted, errors, 0), counted.sum((1, 2)).astype(jnp.float32)
    per = jnp.maximum(weight, 1)
    own_units = errors * scale
    sums = {"loss": jnp.square(errors), "mse": jnp.square(own_units), "mae": jnp.abs(own_units)}
    return {name: Weighted(each.sum((1, 2)) / per, weight) for name, each in sums.items()}


def forecasts_of(
    forecast: Callable[[Any, Batch], Any], own: OwnSeries, batch_size: int
) -> Callable[[Any, str], Forecasts]:
    """Returns a function from parameters and the name of a split to the forecasts of all of its windows."""

    def of_split(params: Any, split: str) -> Forecasts:
        fields: Arrays = own.data.splits[split]
        count = len(fields["last"])
        batches = np.array_split(np.arange(count), -(-count // batch_size))
        batch_of = functools.partial(_batch, fields)
        parts = [np.asarray(forecast(params, batch_of(rows))) for rows in batches]
        back = own.reading.unscaled
        return Forecasts(back(np.concatenate(parts)), back(fields["following"]), fields["counted"])

    return of_split


def _batch(fields: Arrays, rows: Int[np.ndarray, " B"]) -> Batch:
    return {name: jnp.asarray(each[rows]) for name, each in fields.items()}


def errors(found: Forecasts) -> tuple[float, float]:
    """Returns the mean squared and the mean absolute error."""
    wrong = (found.predicted - found.truth)[found.counted]
    return float(np.square(wrong).mean()), float(np.abs(wrong).mean())


def column_scores(found: Forecasts, names: Sequence[str]) -> dict[str, float]:
    """Returns the mean absolute error of each column, if there are several."""
    if len(names) == 1:
        return {}
    wrong = np.where(found.counted, np.abs(found.predicted - found.truth), np.nan)
    counted = [number for number in range(len(names)) if found.counted[..., number].any()]
    return {
        f"mae_{re.sub(r'[^0-9A-Za-z]+', '_', names[each])}": float(np.nanmean(wrong[..., each])) for each in counted
    }


def baseline_scores(own: OwnSeries, split: str, sizes: Sizes, found: Forecasts) -> dict[str, float]:
    """Returns the errors of forecasts without a model, of the same windows.

    Args:
      own: the series.
      split: the name of the split.
      sizes: of windows.
      found: what came.
    """
    values, season = own.parts[split].values, own.reading.season
    steps = window_starts(split, len(values), sizes)[:, None] + np.arange(sizes.window)
    windows = known_values(values, own.reading)[steps]
    seasons = {"naive": 1} | ({"seasonal_naive": season} if season > 1 else {})
    scores = {}
    for name, length in seasons.items():
        predicted = own.reading.unscaled(seasonal_forecast(windows, sizes.horizon, length))
        scores[f"{name}_mse"], scores[f"{name}_mae"] = errors(found._replace(predicted=predicted))
    return scores


def baseline_sentence(model: tuple[float, float], scores: Mapping[str, float], season: int) -> str:
    """Returns a sentence that sets the model beside the baselines."""
    naive = f"the last value again {scores['naive_mae']:.4g}"
    if "seasonal_naive_mae" in scores:
        seasonal = f"the last season of {season} steps again {scores['seasonal_naive_mae']:.4g}"
    else:
        seasonal = "no season was found"
    return f"mean absolute error of the test split {model[1]:.4g}; {naive}; {seasonal}"
