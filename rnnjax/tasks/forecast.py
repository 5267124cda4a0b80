"""Forecasts a series of your own, beside forecasts that need no model."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rnnjax.config import TrainConfig, build_cell
from rnnjax.data.dataset import Arrays, DataSet
from rnnjax.data.own.baselines import seasonal_forecast
from rnnjax.data.own.files import own_files
from rnnjax.data.own.series import Wanted, load_series
from rnnjax.data.own.series_file import Series, read_series
from rnnjax.data.own.windows import SeriesReading, Sizes, known_values, read_windows, traced_windows, window_starts
from rnnjax.errors import DataError, require
from rnnjax.memory import require_memory
from rnnjax.models.forecaster import HorizonForecaster
from rnnjax.tasks import task
from rnnjax.tasks.forecast_plots import plot_following, plot_forecasts
from rnnjax.tasks.own_data import OwnConfig
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Weighted

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


class Task(task.Task):
    """Windows `[B, W, F]` of a series, from each of which the next H steps are predicted at once.

    `loss` is the mean squared error of scaled values; `mse` and `mae` are in the units of the columns, means over them.
    In evaluation there are those of the naive forecast (the last value again) and of the seasonal-naive one (the last
    season again) of the same windows, and the mean absolute error of each column where there are several.

    Its data raises `DataError` as `rnnjax.data.own.series.load_series` does.
    """

    config: Config
    best_metric, higher_is_better = "loss", False

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.reading, self.cell = SeriesReading.from_json(self.kept), build_cell(config.cell)
        targets, scaling = self.reading.targets, self.reading.scaling
        output_layer = 4 * self.cell.output_size * config.horizon * len(targets)
        require_memory(output_layer, "the output layer", "lower horizon")
        self.model = HorizonForecaster(self.cell, config.horizon, len(targets), jnp.dtype(config.dtype))
        self.scale = np.array([scaling.scale[column] for column in targets], np.float32)
        self.inputs = {"values": Field(("B", config.window, len(scaling.names)), "float32")}

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        assert config.data.path is not None
        reading = SeriesReading.from_json(kept) if kept else None
        own = load_series(config.data.path, config.wanted(), config.sizes(), reading)
        return dataclasses.replace(own.data, kept=own.reading.to_json(), raw=own.parts)

    def init(self, key: PRNGKeyArray) -> Any:
        sizes = self.reading.scaling.size, len(self.reading.targets)
        return self.model.init(key, jnp.zeros((1, 1, sizes[0])), jnp.zeros((1, sizes[1])))

    def scaled(self, params: Any, windows: Batch, key: PRNGKeyArray | None = None) -> Float[Array, "B H K"]:
        """Returns the scaled values that the model predicts to follow windows."""
        return self.apply(params, windows["inputs"], windows["last"], mask=windows.get("mask"), key=key)

    def loss(self, params: Any, carry: None, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, None]:
        errors = self.scaled(params, batch, key) - batch["following"]
        return judged(errors, batch["counted"], self.scale), carry

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B H K"]:
        """Returns what follows windows of values, NaN where missing, in their units."""
        windows = traced_windows(jnp.asarray(inputs["values"], jnp.float32), self.reading)
        return self.reading.unscaled(self.scaled(params, windows))

    def scores(self, params: Any, split: str) -> dict[str, float]:
        found = self.forecasts(params, split)
        baselines = baseline_scores(self.data.raw[split], self.reading, self.config.sizes(), split, found)
        scores = column_scores(found, self.reading.names) | baselines
        if split == "test":
            _log.info("%s", baseline_sentence(errors(found), scores, self.reading.season))
        return scores

    def plots(self, params: Any, directory: Path) -> None:
        plot_forecasts(*self.forecasts(params, "test"), self.reading.names, directory / "forecast.png")

    def generate(self, params: Any, *, length: int = 300, plots: Path | None = None) -> Iterator[str]:
        """Yields what follows the end of the data, the names of the columns before it, as lines of a csv file.

        Args:
          params: the parameters.
          length: how many steps at most; there are no more than the horizon has.
          plots: where they are drawn.
        """
        end = series_end(self.config, self.reading)
        window = read_windows(end, self.reading, np.zeros(1, int), len(end))  # in 64 bits, as that of training was
        following = self.reading.unscaled(np.asarray(self._compiled(params, window)))[0, :length]
        if plots is not None:
            known = end[:, self.reading.targets]
            plot_following(known, following, self.reading.names, plots / "generated.png")
        yield ",".join(self.reading.names)
        yield from (",".join(map("{:.6g}".format, row)) for row in following)

    def forecasts(self, params: Any, split: str) -> Forecasts:
        """Returns the forecasts of all windows of a split, made batch by batch."""
        fields, back = self.data.splits[split], self.reading.unscaled
        count = len(fields["last"])
        batches = np.array_split(np.arange(count), -(-count // self.config.batch_size))
        parts = [np.asarray(self._compiled(params, _batch(fields, rows))) for rows in batches]
        return Forecasts(back(np.concatenate(parts)), back(fields["following"]), fields["counted"])

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.scaled)


def series_end(config: Config, reading: SeriesReading) -> Float[np.ndarray, "W C"]:
    """Returns the last window of the data as it is now; of the training's, if the run's own file is gone.

    Raises:
      DataError: if other data is not there, or the file cannot be read, or is shorter than a window.
    """
    path = Path(os.path.expanduser(config.data.path or ""))
    if not path.exists() and not config.data.whole:
        _log.info("%s is gone: what follows is forecast from the end of the data as it was in training", path)
        return reading.end
    files = own_files(str(path), (".csv",))
    series = read_series(files.get("all", files.get("test", path)), config.data.time, reading.scaling.names)
    if len(series.values) < config.window:
        raise DataError(f"{path} has {len(series.values)} steps, and a forecast reads {config.window}: give more")
    return series.values[-config.window :]


def judged(errors: Float[Array, "B H K"], counted: Bool[Array, "B H K"], scale: Float[np.ndarray, " K"]) -> Metrics:
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


def baseline_scores(
    series: Series, reading: SeriesReading, sizes: Sizes, split: str, found: Forecasts
) -> dict[str, float]:
    """Returns the errors of forecasts without a model, of the same windows.

    Args:
      series: of the split.
      reading: how it is read.
      sizes: of windows.
      split: the name of the split.
      found: what came.
    """
    values, season = series.values, reading.season
    steps = window_starts(split, len(values), sizes)[:, None] + np.arange(sizes.window)
    windows = known_values(values, reading)[steps]
    seasons = {"naive": 1} | ({"seasonal_naive": season} if season > 1 else {})
    scores = {}
    for name, length in seasons.items():
        predicted = reading.unscaled(seasonal_forecast(windows, sizes.horizon, length))
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
