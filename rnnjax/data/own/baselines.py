"""Forecasts without a model: the last value again, and the last season again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def likely_season(values: Float[np.ndarray, "T C"], longest: int) -> int:
    """Returns the number of steps after which a series is most like itself; 0 if it has no season.

    It is the first lag from 2 to `longest` at which the autocorrelation of the steps' changes, the mean over columns,
    has a peak nearly as high as its highest, and 0 if that is below 0.3.
    """
    if len(values) < 5:
        return 0
    changes = np.nan_to_num(np.diff(values, axis=0))
    changes = changes - changes.mean(0)
    spread = np.square(changes).mean(0)
    changes = changes[:, spread > 0] / np.sqrt(spread[spread > 0])
    longest = min(longest, len(changes) // 2)
    if not changes.size or longest < 2:
        return 0
    lags = np.arange(1, longest + 2)
    alike = np.array([(changes[lag:] * changes[:-lag]).mean() for lag in lags if lag < len(changes)])
    # A peak: a smooth series is like itself a step later, too.
    peaks = [at for at in range(1, len(alike) - 1) if alike[at] >= max(alike[at - 1], alike[at + 1])]
    best = max((alike[at] for at in peaks), default=0.0)
    # Two seasons are as much alike as one.
    return next((int(lags[at]) for at in peaks if best >= 0.3 and alike[at] >= 0.9 * best), 0)


def seasonal_forecast(windows: Float[np.ndarray, "N W K"], horizon: int, season: int) -> Float[np.ndarray, "N H K"]:
    """Returns for every step of the horizon the value of the same step of the season that ends each window.

    Args:
      windows: the values of the windows.
      horizon: number H of steps.
      season: steps of a season, at most `W`; 1 is the naive forecast.
    """
    return windows[:, -season:][:, np.arange(horizon) % season]
