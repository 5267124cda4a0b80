"""MLflow as a sink; without MLFLOW_TRACKING_URI it writes below the run's directory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rnnjax.training.sinks.sink import Row, flat, scalars

_AT_ONCE, _LONGEST = 100, 500  # what the server takes in one request, and of one parameter


class MLflow:
    """A `Sink` that logs to a run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names, `rnnjax` without it.

    A run that is resumed replaces the one of the earlier process, whose id is in `mlflow/run-id` in its directory.
    Histograms are left out, as MLflow has none.
    """

    def __init__(self) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow

    def open(self, config: dict[str, Any], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        server, local = os.environ.get("MLFLOW_TRACKING_URI"), directory.absolute() / "mlflow"
        local.mkdir(exist_ok=True)
        self._client = self._mlflow.MlflowClient(tracking_uri=server or f"sqlite:///{local}/mlflow.db")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rnnjax")
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            number = self._client.create_experiment(name, None if server else (local / "artifacts").as_uri())
        else:
            number = experiment.experiment_id
        place = local / "run-id"
        if place.exists():
            with contextlib.suppress(Exception):  # the server may not have it any more
                self._client.delete_run(place.read_text().strip())
        self._id = self._client.create_run(number, run_name=directory.name).info.run_id
        place.write_text(self._id)
        params = [self._mlflow.entities.Param(name, str(each)[:_LONGEST]) for name, each in flat(config).items()]
        for some in _parts(params):
            self._client.log_batch(self._id, params=some)

    def write(self, rows: Sequence[Row]) -> None:
        now = int(1000 * time.time())
        metric = self._mlflow.entities.Metric
        metrics = [metric(name, value, now, row["step"]) for row in rows for name, value in scalars(row).items()]
        for some in _parts(metrics):
            self._client.log_batch(self._id, metrics=some)

    def figure(self, name: str, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), "plots")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _parts(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(entries), _AT_ONCE):
        yield entries[first : first + _AT_ONCE]
