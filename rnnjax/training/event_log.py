"""Metrics as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter


class EventLog:
    """Writes metrics for TensorBoard; points after `resumed_at`, of a run that went on before, are dropped there.

    Of several processes one `writes`; the others keep nothing.
    """

    def __init__(self, directory: Path, resumed_at: int | None, *, writes: bool = True):
        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge, write_to_disk=writes)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds lines of `metrics.jsonl`, each metric as ``split/name``."""
        for row in rows:
            for name in row.keys() - {"step", "epoch", "split"}:
                self._writer.add_scalar(f"{row['split']}/{name}", row[name], row["step"])

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
