"""Weights and Biases as a sink; offline with ``WANDB_MODE=offline``."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnjax.training.sinks.sink import Row, flat, histograms, scalars


class Wandb:
    """A `Sink` that logs to a run of `wandb`, in the project that WANDB_PROJECT names, `rnnjax` without it.

    A run that is resumed keeps its id, `wandb-id` in its directory. Offline, what earlier processes wrote is removed;
    online, lines that the server has are left out.
    """

    def __init__(self) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb: Any = wandb

    def open(self, config: dict[str, Any], directory: Path) -> None:
        place = directory / "wandb-id"
        if not place.exists():
            directory.mkdir(parents=True, exist_ok=True)
            place.write_text(uuid.uuid4().hex[:12])
        identity = place.read_text().strip()
        for earlier in directory.glob(f"wandb/offline-run-*-{identity}"):
            shutil.rmtree(earlier)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rnnjax"),
            id=identity,
            resume="allow",
            name=directory.name,
            dir=str(directory),
            config=flat(config),
        )
        self._first = self._run.step if self._run.resumed else 0

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row["step"] < self._first:
                continue
            drawn = {
                name: self._wandb.Histogram(np_histogram=(np.array(each["counts"]), np.array(each["edges"])))
                for name, each in histograms(row).items()
            }
            self._run.log({**scalars(row), **drawn, "epoch": row["epoch"]}, step=row["step"])

    def figure(self, name: str, path: Path) -> None:
        self._run.log({f"plots/{name}": self._wandb.Image(str(path))})

    def close(self) -> None:
        self._run.finish()
