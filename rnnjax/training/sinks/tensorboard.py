"""Events for TensorBoard: metrics, histograms, hyper-parameters and pictures."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnjax.training.sinks.sink import Row, histograms, hyperparameters, scalars

_log = logging.getLogger(__name__)


@functools.cache
def can_write_events() -> bool:
    """Says whether tensorboardX is installed, and once in the log that it is not."""
    installed = importlib.util.find_spec("tensorboardX") is not None
    if not installed:
        _log.warning("tensorboardX is not installed: no TensorBoard events are written")
    return installed


class TensorBoard:
    """A `Sink` that writes event files, after removing those of earlier processes.

    So the events agree with `metrics.jsonl` wherever the run was stopped. Unlike `tensorboardX.SummaryWriter`, it
    writes in the calling thread, where a full disk raises an error.
    """

    def __init__(self) -> None:
        self._hyperparameters: dict[str, Any] = {}
        self._outcomes: dict[str, float] = {}
        self._last = 0

    def open(self, config: dict[str, Any], directory: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder = directory / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._hyperparameters = hyperparameters(config)
        self._writer = EventsWriter(str(folder / "events"))

    def write(self, rows: Sequence[Row]) -> None:
        from tensorboardX.summary import scalar

        for row in rows:
            for name, value in scalars(row).items():
                self._add(scalar(name, value), row["step"])
            for name, histogram in histograms(row).items():
                self._add(_histogram(name, histogram), row["step"])
            if row["split"] in ("validation", "test"):
                self._outcomes |= scalars(row)
            self._last = row["step"]
        self._writer.flush()

    def figure(self, name: str, path: Path) -> None:
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # where a PNG file has them
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
        self._add(Summary(value=[Summary.Value(tag=f"plots/{name}", image=image)]), self._last)
        self._writer.flush()

    def close(self) -> None:
        from tensorboardX.summary import hparams

        if self._outcomes:
            shown = {name: value for name, value in self._hyperparameters.items() if isinstance(value, _SHOWN)}
            for summary in hparams(shown, dict.fromkeys(self._outcomes, 0)):
                self._add(summary, 0)
        self._writer.close()

    def _add(self, summary: Any, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))


_SHOWN = (bool, int, float, str)  # kinds of hyper-parameters that TensorBoard has


def _histogram(name: str, histogram: Mapping[str, Sequence[float]]) -> Any:
    """Returns a summary; sums are those of the middles of the bins."""
    from tensorboardX.proto.summary_pb2 import HistogramProto, Summary  # pyright: ignore[reportAttributeAccessIssue]

    edges, counts = histogram["edges"], histogram["counts"]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    proto = HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles)),
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return Summary(value=[Summary.Value(tag=name, histo=proto)])
