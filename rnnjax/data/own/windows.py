"""Windows of a series: what is known, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from rnnjax.data.dataset import Arrays
from rnnjax.data.own.scaling import Scaling
from rnnjax.data.own.series_file import Series
from rnnjax.errors import DataError
from rnnjax.memory import require_memory


class Sizes(NamedTuple):
    """How a series becomes windows.

    Attributes:
      window: number W of steps that a forecast reads.
      horizon: number H of steps that it is of.
      stride: steps from one window of training to the next; held-out ones are one step apart.
      validation, test: fractions of one file, validation before test and both after training.
      whole: whether one file is not cut, but all of every split, unless it is that of the training of a given reading.
    """

    window: int
    horizon: int
    stride: int
    validation: float
    test: float
    whole: bool = False


class SeriesReading(NamedTuple):
    """What a model needs to read another series as that of its training.

    Attributes:
      scaling: of the columns.
      targets: indices of those that are forecast, K of C.
      season: steps of a season; below 2 there is none.
      relative: whether windows are read as differences to the last known values of the columns that are forecast.
      end: the last steps of the series, with which a forecast begins where no other is given.
      checksum: of the file that was read so, if it was one.
    """

    scaling: Scaling
    targets: list[int]
    season: int
    relative: bool
    end: Float[np.ndarray, "W C"] = np.empty((0, 0))
    checksum: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the columns that are forecast."""
        return [self.scaling.names[column] for column in self.targets]

    def unscaled(self, values: Shaped[Any, "*N K"]) -> Shaped[Any, "*N K"]:
        """Returns values of the columns that are forecast in their units."""
        return values * np.array(self.scaling.scale)[self.targets] + np.array(self.scaling.mean)[self.targets]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        end = [[None if np.isnan(value) else value for value in row] for row in self.end.tolist()]
        return {**self._asdict(), "scaling": self.scaling.to_json(), "end": end}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SeriesReading:
        """Returns that of which `to_json` made `values`."""
        end = np.array([[np.nan if value is None else value for value in row] for row in values["end"]], np.float64)
        return cls(**{**values, "scaling": Scaling.from_json(values["scaling"]), "end": end})


def require_window(split: str, series: Series, sizes: Sizes) -> None:
    """Raises `DataError` if a split's part of the series is too short for a window."""
    count = len(series.values)
    if count < sizes.window + sizes.horizon:
        raise DataError(
            f"the {split} split of {series.file} has {count} steps, too few for a window of {sizes.window} and a "
            f"horizon of {sizes.horizon}: lower window or horizon, or give more"
        )


def window_starts(split: str, steps: int, sizes: Sizes) -> Int[np.ndarray, " N"]:
    """Returns the first steps of a split's windows."""
    return np.arange(0, steps - sizes.window - sizes.horizon + 1, sizes.stride if split == "train" else 1)


def window_fields(split: str, series: Series, reading: SeriesReading, sizes: Sizes) -> Arrays:
    """Returns the windows of a split as fields.

    Args:
      split: its name, for messages.
      series: its part of the series.
      reading: how values are read.
      sizes: of windows.

    Raises:
      DataError: if the part has no value to forecast.
    """
    starts = window_starts(split, len(series.values), sizes)
    scaling, targets = reading.scaling, reading.targets
    size = 4 * len(starts) * (sizes.window * scaling.size + 2 * sizes.horizon * len(targets))
    require_memory(size, f"the windows of the {split} split", "raise data.stride, or lower window")
    coming = starts[:, None] + sizes.window + np.arange(sizes.horizon)
    following = scaling.inputs(series.values)[:, targets]
    missing = np.isnan(series.values)[:, targets]
    counted = ~missing[coming]
    if not counted.any():
        raise DataError(f"the {split} split of {series.file} has no value to forecast: give more, or other splits")
    read = read_windows(series.values, reading, starts, sizes.window)
    return {**read, "following": following[coming], "counted": counted}


def read_windows(
    values: Float[np.ndarray, "T C"], reading: SeriesReading, starts: Int[np.ndarray, " N"], window: int
) -> dict[str, np.ndarray]:
    """Returns what a model reads of windows of a series: `inputs`, `last` and, if whole steps are missing, `mask`.

    Args:
      values: the series, NaN where values are missing.
      reading: how values are read.
      starts: the first step of each window.
      window: number of steps of a window.
    """
    steps = starts[:, None] + np.arange(window)
    last = known_values(values, reading)[starts + window - 1]
    inputs = relative_inputs(reading.scaling.inputs(values)[steps], last, np.isnan(values)[steps], reading, np)
    fields = {"inputs": inputs, "last": last}
    there = np.isnan(values).sum(1) < values.shape[1]
    return fields if there.all() else fields | {"mask": there[steps]}


def traced_windows(values: Float[Array, "B W C"], reading: SeriesReading) -> dict[str, Shaped[Array, "B ..."]]:
    """Returns the same of windows that may be traced, whose last known values are looked for in themselves."""
    inputs, missing = reading.scaling.traced_inputs(values), jnp.isnan(values)
    place = jnp.where(missing, -1, jnp.arange(values.shape[1])[:, None])[..., reading.targets].max(1)
    scaled = inputs[..., : len(reading.scaling.names)][..., reading.targets]
    last = jnp.take_along_axis(scaled, jnp.maximum(place, 0)[:, None], axis=1)[:, 0]
    inputs = relative_inputs(inputs, last, missing, reading, jnp)
    return {"inputs": inputs, "last": last, "mask": ~missing.all(-1)}


def relative_inputs(inputs: Any, last: Any, missing: Any, reading: SeriesReading, numpy: Any) -> Any:
    """Returns inputs as differences to the last known values of the columns that are forecast, if they are read so.

    Args:
      inputs: of windows, ``[N, W, F]``.
      last: the last known values, ``[N, K]``.
      missing: which values are missing, ``[N, W, C]``; of these nothing is taken away.
      reading: how values are read.
      numpy: of whose arrays all are, `numpy` or `jax.numpy`.
    """
    if not reading.relative:
        return inputs
    columns = len(reading.scaling.names)
    shift = last @ np.eye(columns, dtype=np.float32)[reading.targets]
    differences = numpy.where(missing, 0, inputs[..., :columns] - shift[:, None])
    return numpy.concatenate([differences, inputs[..., columns:]], axis=-1)


def known_values(values: Float[np.ndarray, "T C"], reading: SeriesReading) -> Float[np.ndarray, "T K"]:
    """Returns what is known of each column to forecast at each step, scaled: its last value; before any 0, the mean."""
    missing = np.isnan(values)[:, reading.targets]
    scaled = reading.scaling.inputs(values)[:, reading.targets]
    place = np.maximum.accumulate(np.where(missing, 0, np.arange(1, len(values) + 1)[:, None]), axis=0)
    return np.take_along_axis(np.concatenate([np.zeros_like(scaled[:1]), scaled]), place, axis=0)
