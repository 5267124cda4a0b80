"""Metrics as a TensorBoard event file."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import scalar
except ImportError:  # a run goes on without events
    EventsWriter = None

_log = logging.getLogger(__name__)


class EventLog:
    """Writes metrics for TensorBoard, after replacing the event files of earlier processes.

    So the events agree with `metrics.jsonl` wherever the run was stopped. Unlike `tensorboardX.SummaryWriter`, it
    writes in the calling thread, where a full disk raises an error.

    Args:
      directory: of the event file.
      rows: lines of `metrics.jsonl` so far.
      writes: whether this process writes, as only one of several does.
    """

    def __init__(self, directory: Path, rows: Sequence[dict[str, Any]], *, writes: bool = True):
        self._writer = None
        if not writes:
            return
        if EventsWriter is None:
            _log.warning("tensorboardX is not installed: no TensorBoard events are written")
            return
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("events.out.tfevents.*"):
            path.unlink()
        self._writer = EventsWriter(str(directory / "events"))
        self.write(rows)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds lines of `metrics.jsonl`, each metric as ``split/name``."""
        if self._writer is None:
            return
        for row in rows:
            for name in row.keys() - {"step", "epoch", "split"}:
                summary = scalar(f"{row['split']}/{name}", row[name])
                self._writer.write_event(Event(wall_time=time.time(), step=row["step"], summary=summary))
        self._writer.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
