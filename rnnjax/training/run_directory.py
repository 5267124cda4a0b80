"""What a run leaves behind: its config, metrics, summary, pictures and checkpoints in one directory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnjax.config import differences
from rnnjax.errors import ConfigError


class RunDirectory:
    """The directory of a run.

    Holds `config.json`, `devices.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `tensorboard/` and `plots/`.

    Args:
      path: where it is.
      writes: whether this process writes there, as one of several does; what the others ask to be written is not.
    """

    def __init__(self, path: str | Path, *, writes: bool = True):
        self.path = Path(path)
        self.writes = writes
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self._config = self.path / "config.json"
        self._metrics = self.path / "metrics.jsonl"
        self._summary = self.path / "summary.json"
        self._devices = self.path / "devices.json"

    def check(self, config: dict[str, Any]) -> None:
        """Raises `ConfigError` if the directory holds another config's run, or something else.

        Where the data is may differ.
        """
        if self._config.exists():
            different = [name for name in differences(self.config(), _as_json(config)) if name not in _PLACES]
            if different:
                raise ConfigError(
                    f"{self.path} holds a run of another config (different: {', '.join(different)}); "
                    "choose another --workdir, or give the same config to go on"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --workdir")

    def claim(self, config: dict[str, Any]) -> None:
        """Makes the directory this config's, or finds that it is already.

        Raises:
          ConfigError: as `check`, or if it cannot be written.
        """
        if not self.writes:
            return
        self.check(config)
        if self._config.exists():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self._config, _as_json(config))
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be used ({error.strerror}); choose another --workdir") from error

    def config(self) -> dict[str, Any]:
        """Returns the config of the run.

        Raises:
          ConfigError: if there is none, or it cannot be read.
        """
        try:
            values = json.loads(self._config.read_text())
        except OSError as error:
            raise ConfigError(
                f"{self.path} holds no run: there is no readable config.json ({error.strerror})"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self._config} is damaged ({error}); choose another --workdir") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{self._config} is damaged (it holds no object); choose another --workdir")
        return values

    def write_devices(self, count: int) -> None:
        """Writes how many devices share a batch: with another number, a run that resumes would round otherwise."""
        if self.writes:
            write_json(self._devices, {"batch": count})

    def devices(self) -> int | None:
        """Returns how many devices shared a batch when the run began; None where that is not known."""
        try:
            return json.loads(self._devices.read_text())["batch"]
        except (OSError, ValueError, KeyError):
            return None

    def append_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`."""
        if not self.writes:
            return
        with self._metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of `metrics.jsonl`; a last line that was cut off is left out."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def keep_metrics_until(self, step: int) -> None:
        """Drops the lines after a step, and those of the test split, which a resumed run will write again."""
        if not self.writes:
            return
        kept = [row for row in self.metrics() if row["step"] <= step and row["split"] != "test"]
        temporary = self._metrics.with_suffix(".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, self._metrics)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`."""
        write_json(self._summary, summary)

    def summary(self) -> dict[str, Any] | None:
        """Returns the summary of a run that is complete; None where there is none, or none that can be read."""
        try:
            return json.loads(self._summary.read_text())
        except (OSError, ValueError):
            return None


_PLACES = ("data.path", "data.tfds_dir")


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config as it will be read back."""
    return json.loads(json.dumps(config))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)
