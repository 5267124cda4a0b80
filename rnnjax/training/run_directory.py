"""What a run leaves behind: its config, metrics, summary, pictures and checkpoints in one directory."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rnnjax.config import PLACES
from rnnjax.config_group import differences
from rnnjax.errors import ConfigError, first_line
from rnnjax.files import is_object, parse_json, part_of, read_json, write_json
from rnnjax.training.choice import Choice, choice_from_json
from rnnjax.training.lock import LOCK
from rnnjax.training.metrics_file import append_rows, mend, read_rows, write_rows

_log = logging.getLogger(__name__)


class RunDirectory:
    """The directory of a run.

    Holds `config.json`, `devices.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `tensorboard/` and `plots/`;
    while a run writes there also `lock`.

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

        Where the data is may differ, and how long a call may take.
        """
        if self._holds_config():
            different = [name for name in differences(self.config(), _as_json(config)) if name not in _FREE]
            if different:
                raise ConfigError(
                    f"{self.path} holds a run of another config (different: {', '.join(different)}); "
                    "choose another --workdir, or give the same config to resume"
                )
        elif self.path.exists() and (not self.path.is_dir() or self._holds_more()):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --workdir")

    def claim(self, config: dict[str, Any]) -> None:
        """Makes the directory this config's, or finds that it is already.

        Raises:
          ConfigError: as `check`, or if it cannot be written.
        """
        if not self.writes:
            return
        self.check(config)
        if self._holds_config():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self._config, _as_json(config))
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be used ({error.strerror}); choose another --workdir") from error

    def _holds_config(self) -> bool:
        """Says whether there is a `config.json`; one without a byte in it and nothing beside it was not finished."""
        if not self._config.is_file() or self._config.stat().st_size:
            return self._config.exists()
        return self._holds_more()

    def _holds_more(self) -> bool:
        """Says whether there is more than a process leaves that is killed before it has claimed the directory."""
        left = (self._config, part_of(self._config), self.path / LOCK)
        return any(path not in left for path in self.path.iterdir())

    def config(self) -> dict[str, Any]:
        """Returns the config of the run.

        Raises:
          ConfigError: if there is none, or it cannot be read.
        """
        try:
            values = parse_json(self._config.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{self.path} holds no run: there is no readable config.json ({error.strerror})"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{self._config} is damaged ({first_line(error)}); choose another --workdir") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{self._config} is damaged (it holds no object); choose another --workdir")
        return values

    def write_choice(self, choice: Choice) -> None:
        """Writes how the run is computed: by another number of devices or other methods it would round otherwise."""
        if self.writes:
            write_json(self._devices, choice.as_json())

    def choice(self) -> Choice | None:
        """Returns how the run was computed when it began; None where that is not known."""
        then = "how many devices share a batch, and by which methods, is chosen anew"
        value = read_json(self._devices, lambda value: choice_from_json(value) is not None, then)
        return choice_from_json(value)

    def append_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`."""
        if self.writes:
            append_rows(self._metrics, rows)

    def write_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes all lines of `metrics.jsonl` anew."""
        write_rows(self._metrics, rows)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of `metrics.jsonl`; those that are cut off or damaged are left out."""
        return read_rows(self._metrics)

    def keep_metrics_until(self, step: int, open_steps: int = 0, *, evaluated: bool = False) -> None:
        """Drops the lines after a step, and those of the test split, which a resumed run will write again.

        A file with damaged lines is set aside, and what is missing up to the step is logged.

        Args:
          step: where the run resumes.
          open_steps: how many steps before it have no line yet; the run will write one of them and more.
          evaluated: whether the validation split was evaluated there, so that a line says so.
        """
        if not self.writes:
            return
        mend(self._metrics)
        kept = [row for row in self.metrics() if row["step"] <= step and row["split"] != "test"]
        last = step - open_steps
        if last and all(row["step"] < last for row in kept):
            _log.warning("%s has no line of step %d, where the run resumes; it stays missing", self._metrics, last)
        elif evaluated and ("validation", step) not in {(row["split"], row["step"]) for row in kept}:
            _log.warning(
                "%s has no validation line of step %d, where the run resumes; it stays missing", self._metrics, step
            )
        write_rows(self._metrics, kept)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`."""
        write_json(self._summary, summary)

    def summary(self, fits: Callable[[Any], bool] = is_object) -> dict[str, Any] | None:
        """Returns the summary of a run that is complete; None where there is none, or none that can be read and `fits`.

        Without one, a run is finished again from its last checkpoint.
        """
        return read_json(self._summary, fits, "it is made again")


_FREE = (*PLACES, "call_seconds")


def new_directory(name: str) -> Path:
    """Returns a path in `runs` where nothing is yet, named after the config and the time."""
    base = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([base], (f"{base}-{n}" for n in itertools.count(2)))
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())


def config_digest(config: dict[str, Any]) -> str:
    """Returns what tells a run's checkpoints from those of other configs: the SHA-256 of the config.

    Where the data is, how the work is split over devices and how long a call may take are left out: none of them
    changes what is computed.
    """
    groups = {"data": dict(config.get("data", {})), "parallel": None}
    for name in PLACES:
        groups["data"].pop(name.removeprefix("data."), None)
    said = {name: value for name, value in (config | groups).items() if name != "call_seconds"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config as it will be read back."""
    return json.loads(json.dumps(config))
