"""Forecasts without a model: the last value again, and the last season again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_LEAST = 0.3  # autocorrelation after a season
_EQUAL = 0.85  # of the highest peak: two seasons are as much alike as one
_ROUNDING = 1e-24  # of the mean square of a column's values


def likely_season(values: Float[np.ndarray, "T C"], longest: int) -> int:
    """Returns the number of steps after which a series is most like itself; 0 if it has no season.

    It is from 2 to `longest`, and a peak of the autocorrelation after this has first fallen below zero, as a smooth
    series is like itself a step later, too. There are two candidates: that of the values without their linear trend,
    which noise changes least, and that of the steps' changes, which drift changes least. The higher one is taken, if it
    is 0.3 or more.
    """
    if len(values) < 5:
        return 0
    least = _ROUNDING * np.square(np.nan_to_num(values)).mean(0)
    candidates = [_highest_peak(each, least, longest) for each in (_without_trend(values), np.diff(values, axis=0))]
    height, season = max(candidates)
    return season if height >= _LEAST else 0


def _without_trend(values: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
    """Returns the columns without the straight lines that fit them best; what is missing is zero."""
    missing = np.isnan(values)
    steps = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    steps = _centred(np.where(missing, np.nan, steps))
    values = _centred(values)
    return values - steps * (steps * values).sum(0) / np.maximum(np.square(steps).sum(0), 1)


def _centred(values: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
    """Returns the columns with a mean of zero; what is missing is zero."""
    counts = np.maximum((~np.isnan(values)).sum(0), 1)
    return np.nan_to_num(values - np.nan_to_num(values).sum(0) / counts)


def _highest_peak(values: Float[np.ndarray, "T C"], least: Float[np.ndarray, " C"], longest: int) -> tuple[float, int]:
    """Returns height and lag of the highest peak of the mean autocorrelation, the first of equals; zeros if none.

    Args:
      values: columns; what is missing is NaN.
      least: the variance that is rounding in each column.
      longest: the longest lag.
    """
    values = _centred(values)
    spread = np.square(values).mean(0)
    values = values[:, spread > least] / np.sqrt(spread[spread > least])
    longest = min(longest, len(values) // 2)
    if not values.size or longest < 2:
        return 0.0, 0
    alike = [float((values[lag:] * values[: len(values) - lag]).mean()) for lag in range(longest + 2)]
    first = next((lag for lag, height in enumerate(alike) if height < 0), longest + 1)
    lags = range(max(first, 2), longest + 1)
    peaks = [lag for lag in lags if alike[lag] >= max(alike[lag - 1], alike[lag + 1])]
    enough = _EQUAL * max((alike[lag] for lag in peaks), default=0.0)
    season = next((lag for lag in peaks if alike[lag] >= max(enough, _LEAST)), 0)
    # Noise makes several peaks of one.
    return max(((alike[lag], lag) for lag in peaks if season <= lag < 1.5 * season), default=(0.0, 0))


def seasonal_forecast(windows: Float[np.ndarray, "N W K"], horizon: int, season: int) -> Float[np.ndarray, "N H K"]:
    """Returns for every step of the horizon the value of the same step of the season that ends each window.

    Args:
      windows: the values of the windows.
      horizon: number H of steps.
      season: steps of a season, at most `W`; 1 is the naive forecast.
    """
    return windows[:, -season:][:, np.arange(horizon) % season]
