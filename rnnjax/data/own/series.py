"""A series of your own, read and split into `train`, `validation` and `test`, as windows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rnnjax.data.dataset import DataSet, content_checksum
from rnnjax.data.own.baselines import likely_season
from rnnjax.data.own.files import learnt_from, own_files
from rnnjax.data.own.scaling import learn_scaling
from rnnjax.data.own.series_file import Series, read_series
from rnnjax.data.own.windows import SeriesReading, Sizes, require_window, window_fields
from rnnjax.errors import DataError


class OwnSeries(NamedTuple):
    """The windows of a series, how it was read, and the series of each split."""

    data: DataSet
    reading: SeriesReading
    parts: Mapping[str, Series]


class Wanted(NamedTuple):
    """What is wanted of a series, as a config says it.

    Attributes:
      time: the column of times, as `Columns.time`.
      features: columns that are read; none takes all but the times.
      targets: those of them that are forecast; none takes all.
      scale: whether columns are standardised.
      relative: as `SeriesReading.relative`.
      season: steps of a season; 0 finds it in the training split.
    """

    time: str | None = ""
    features: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    scale: bool = True
    relative: bool = True
    season: int = 0


def load_series(path: str, wanted: Wanted, sizes: Sizes, reading: SeriesReading | None = None) -> OwnSeries:
    """Loads a series from one csv file, which is cut by time, or from a folder with a csv file for each split.

    Fields are ``inputs [N, W, F]`` float32, ``mask [N, W]`` if whole steps are missing, ``last [N, K]``, the last value
    known of each column that is forecast, ``following [N, H, K]``, all scaled, and ``counted [N, H, K]``, which of
    these are not missing. No window has steps of two splits, and scaling is by training alone.

    Args:
      path: of the file or the folder.
      wanted: which columns are what, and how they are read.
      sizes: of windows and splits.
      reading: of a trained model, by which the data is to be read; nothing is learnt then.

    Raises:
      DataError: for what is wrong with the data.
    """
    files = own_files(path, (".csv",))
    features = wanted.features if reading is None else reading.scaling.names
    read = {name: read_series(file, wanted.time, features) for name, file in files.items()}
    whole = read.get("all")
    parts: Mapping[str, Series] = read
    checksum = "" if whole is None else whole.checksum()
    if whole is not None and sizes.whole and checksum != learnt_from(reading):
        parts = dict.fromkeys(("train", "validation", "test"), whole)
    elif whole is not None:
        parts = cut_series(whole, sizes)
    names = parts["train"].names
    for split, part in parts.items():
        require_window(split, part, sizes)
        if part.names != names:
            raise DataError(f"{part.file} has columns {', '.join(part.names)}, not {', '.join(names)}: give the same")
    reading = reading or _learnt(parts, wanted, sizes)
    reading = reading._replace(checksum=checksum, end=parts["test"].values[-sizes.window :])
    splits = {name: window_fields(name, part, reading, sizes) for name, part in parts.items()}
    steps = sum(len(part.values) for part in read.values())
    source = f"{steps:,} steps of {', '.join(names)} in {path}"
    data = DataSet(Path(os.path.expanduser(path)).stem, splits, source, content_checksum(splits))
    return OwnSeries(data, reading, parts)


def _learnt(parts: Mapping[str, Series], wanted: Wanted, sizes: Sizes) -> SeriesReading:
    """Returns how a series is read, learnt from its training split."""
    train = parts["train"]
    targets = _chosen(train, wanted.targets)
    season = wanted.season or likely_season(train.values[:, targets], sizes.window)
    scaling = learn_scaling(train.names, train.values, scale=wanted.scale)
    return SeriesReading(scaling, targets, season, wanted.relative)


def cut_series(series: Series, sizes: Sizes) -> dict[str, Series]:
    """Returns the beginning of a series as `train`, what follows as `validation`, and the end as `test`."""
    count = len(series.values)
    test = round(count * sizes.test)
    held_out = test + round(count * sizes.validation)
    places = {
        "train": (0, count - held_out),
        "validation": (count - held_out, count - test),
        "test": (count - test, count),
    }
    return {name: series._replace(values=series.values[first:end]) for name, (first, end) in places.items()}


def _chosen(series: Series, targets: Sequence[str]) -> list[int]:
    unknown = next((name for name in targets if name not in series.names), None)
    if unknown is not None:
        names = ", ".join(series.names)
        raise DataError(f"{series.file} has no column {unknown!r} to forecast among {names}: correct data.targets")
    return [series.names.index(name) for name in targets] or list(range(len(series.names)))
