"""The contract of a sink, and several sinks as one: a record that must not fail, and followers that may."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rnnjax.errors import first_line
from rnnjax.metric_names import numbers

_log = logging.getLogger(__name__)

Row = dict[str, Any]  # a line of `metrics.jsonl`


class Sink(Protocol):
    """The contract. A class of one's own is named in `config.sinks` as module:Class, and made without arguments.

    A line is ``{"step": int, "epoch": int, "split": str, NAME: VALUE, ...}`` as in `metrics.jsonl`. A value is a
    number, or with `config.histograms` a histogram, ``{"edges": [n + 1 numbers], "counts": [n numbers]}``.
    """

    def open(self, config: dict[str, Any], directory: Path) -> None:
        """Begins a run, or goes on with one; what earlier processes wrote of it is replaced.

        All lines of the run so far are written next, so that the sink has what `metrics.jsonl` has wherever a process
        was killed.

        Args:
          config: of the run; of one of a sweep, its number and its values are in ``config["sweep"]``.
          directory: of the run.
        """

    def write(self, rows: Sequence[Row]) -> None:
        """Adds lines, which are in the order of their steps."""

    def figure(self, name: str, path: Path) -> None:
        """Adds a picture, a PNG file."""

    def close(self) -> None:
        """Ends the run; not called where a process is killed."""


class Sinks:
    """A record of a run, and the sinks that follow it.

    An error of the record ends the run. One of a follower is logged in a line, and it gets nothing more.

    Args:
      record: adds lines to the record.
      followers: by name.
    """

    def __init__(self, record: Callable[[Sequence[Row]], None], followers: Mapping[str, Sink]):
        self._record = record
        self._followers = dict(followers)

    def open(self, config: dict[str, Any], directory: Path, rows: Sequence[Row]) -> None:
        """Begins, or goes on with, a run of which there are `rows` already; arguments are those of `Sink.open`.

        Args:
          config: of the run.
          directory: of the run.
          rows: its lines so far.
        """
        self._each(lambda sink: sink.open(config, directory))
        if rows:
            self._each(lambda sink: sink.write(rows))

    def write(self, rows: Sequence[Row]) -> None:
        """Adds lines to the record, then to what follows it."""
        if rows:
            self._record(rows)
            self.follow(rows)

    def follow(self, rows: Sequence[Row]) -> None:
        """Adds lines to the followers alone."""
        self._each(lambda sink: sink.write(rows))

    def figures(self, directory: Path) -> None:
        """Adds the pictures in a directory, by the names of their files."""
        for path in sorted(directory.glob("*.png")):
            self._each(lambda sink, path=path: sink.figure(path.stem, path))

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, use: Callable[[Sink], None]) -> None:
        for name, sink in list(self._followers.items()):
            try:
                use(sink)
            except Exception as error:  # a sink can raise anything
                del self._followers[name]
                reason = f"{type(error).__name__}: {first_line(error)}"
                _log.warning("the sink %s has failed and gets nothing more of this run (%s)", name, reason)


def scalars(row: Row) -> dict[str, float]:
    """Returns the numbers of a line, by ``split/name``."""
    return {f"{row['split']}/{name}": value for name, value in numbers(row).items() if not isinstance(value, Mapping)}


def histograms(row: Row) -> dict[str, Mapping[str, Sequence[float]]]:
    """Returns the histograms of a line, by ``split/name``."""
    return {f"{row['split']}/{name}": value for name, value in row.items() if isinstance(value, Mapping)}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a config by their dotted names; lists as text."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    return fields


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a run is to be told apart by: in a sweep its values and seed, otherwise all fields that are set."""
    if "sweep" in config:
        return {"seed": config["seed"], **config["sweep"]["values"]}
    return {name: value for name, value in flat(config).items() if value is not None}
