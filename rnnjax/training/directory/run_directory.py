"""The directory of a run, with its config, metrics, summary, plots and checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnjax.config import PLACES
from rnnjax.config_group import differences
from rnnjax.errors import ConfigError, first_line
from rnnjax.files import is_object, parse_json, part_of, read_json, write_json, write_text
from rnnjax.tasks.task import Kept
from rnnjax.training.directory.choice import Choice, choice_from_json
from rnnjax.training.directory.lock import LOCK, locked
from rnnjax.training.directory.metrics_file import append_rows, mend, read_rows, write_rows
from rnnjax.training.directory.model_file import ModelFile, model_from_json

_log = logging.getLogger(__name__)


class RunDirectory:
    """The directory of a run.

    It contains `config.json`, `model.json`, `devices.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`,
    `tensorboard/`, `plots/`, `parent.json` if the run began with another one, `histograms.jsonl` if the config asks for
    them, and `lock` while a run writes there.

    Args:
      path: of the directory.
      writes: whether this process writes there, as only one of several does; in the others nothing is written.
    """

    def __init__(self, path: str | Path, *, writes: bool = True):
        self.path = Path(path)
        self.writes = writes
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self._config = self.path / "config.json"
        self._model = self.path / "model.json"
        self._metrics = self.path / "metrics.jsonl"
        self._summary = self.path / "summary.json"
        self._devices = self.path / "devices.json"
        self._parent = self.path / "parent.json"
        self._mark = ""

    @contextlib.contextmanager
    def locked(self) -> Iterator[str]:
        """Locks the directory against other writers, unless this object has done so already; yields the lock's mark.

        A process that does not write locks nothing, and gets an empty mark.

        Raises:
          DirectoryInUse, ConfigError: as `rnnjax.training.directory.lock.locked`.
        """
        if self._mark or not self.writes:
            yield self._mark
            return
        with locked(self.path) as self._mark:
            try:
                yield self._mark
            finally:
                self._mark = ""

    def check(self, config: dict[str, Any]) -> None:
        """Raises `ConfigError` if the directory contains a run of another config, or something else.

        The place of the data, the duration of calls and the sinks may differ.
        """
        if self.holds_config():
            different = [name for name in differences(self.config(), _as_json(config)) if name not in _MAY_DIFFER]
            if different:
                raise ConfigError(
                    f"{self.path} holds a run of another config (different: {', '.join(different)}); "
                    "choose another --workdir, where --init_from can take its parameters, or resume by the same config"
                )
        elif self.path.exists() and (not self.path.is_dir() or self._holds_other_files()):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --workdir")

    def claim(self, config: dict[str, Any]) -> None:
        """Creates the directory for a run of this config, unless it already contains one.

        Raises:
          ConfigError: as `check`, or if it cannot be written.
        """
        if not self.writes:
            return
        self.check(config)
        if not self.holds_config():
            self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        """Creates the directory unless it is there, and writes `config.json`.

        Raises:
          ConfigError: if it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self._config, _as_json(config))
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be used ({error.strerror}); choose another --workdir") from error

    def check_parent(self, parent: Mapping[str, Any] | None) -> None:
        """Raises `ConfigError` if the directory contains a run that began otherwise.

        Args:
          parent: what the run is to begin with; None asks for no such thing, and fits every run.
        """
        recorded = self.parent()
        if parent is None or (recorded is None and not self.has_begun()):
            return
        if recorded is None:
            raise ConfigError(f"{self.path} holds a run that began afresh; choose another --workdir")
        if any(recorded.get(name) != value for name, value in parent.items()):
            began = f"with {recorded.get('directory')} ({recorded.get('how')}, {recorded.get('checkpoint')})"
            raise ConfigError(f"{self.path} holds a run that began {began}; choose another --workdir")

    def has_begun(self) -> bool:
        """Says whether there are checkpoints, from which the run would be resumed.

        What is left of one that a killed process was writing is none.
        """
        steps = (path for path in self.checkpoints.glob("*") if path.name.isdecimal())
        return any(entry.is_file() for path in steps for entry in path.rglob("*"))

    def holds_config(self) -> bool:
        """Says whether there is a `config.json`; an empty one alone is what a process leaves that was killed early."""
        if not self._config.is_file() or self._config.stat().st_size:
            return self._config.exists()
        return self._holds_other_files()

    def _holds_other_files(self) -> bool:
        """Says whether there are files other than those of a process that was killed while it claimed the directory."""
        expected = (self._config, part_of(self._config), self.path / LOCK)
        return any(path not in expected for path in self.path.iterdir())

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

    def keep_model(self, model: ModelFile) -> None:
        """Writes `model.json`, unless a run that is resumed has kept it before.

        Raises:
          ConfigError: if checkpoints of an earlier version are there, which kept none.
        """
        if self.has_begun():
            if not self._model.exists():
                raise ConfigError(_EARLIER.format(self.path))
            if self._model_file() is not None:
                return
        if self.writes:
            write_text(self._model, json.dumps(model.as_json()) + "\n")

    def model(self) -> ModelFile:
        """Returns what the run has kept for its model.

        Raises:
          ConfigError: if an earlier version wrote the run, which kept nothing, or the file is damaged.
        """
        if not self._model.exists():
            raise ConfigError(_EARLIER.format(self.path))
        model = self._model_file()
        if model is None:
            raise ConfigError(_DAMAGED.format(self._model))
        return model

    def kept(self) -> Kept | None:
        """Returns what a run that is resumed takes in place of what its data would give; None if the data must give it.

        Raises:
          ConfigError: as `model`, unless the data gives the same, as it does if the run began afresh.
        """
        if not self.has_begun():
            return None
        return None if self.model_is_lost() else self.model().kept

    def model_is_lost(self) -> bool:
        """Says whether `model.json` is damaged, and the data gives the same, as it does if the run began afresh."""
        return self._model.exists() and self._model_file() is None and self.parent() is None

    def _model_file(self) -> ModelFile | None:
        """Returns the content of `model.json`; None if there is none that can be read."""
        return model_from_json(read_json(self._model, is_object, "it is made again where the run is resumed"))

    def write_parent(self, record: Mapping[str, Any]) -> None:
        """Writes with which other run this one began: directory, checkpoint, step and digests."""
        if self.writes:
            write_json(self._parent, record)

    def parent(self) -> dict[str, Any] | None:
        """Returns with which other run this one began; None if with none."""
        return read_json(self._parent, is_object, "with which run this one began is not known")

    def write_choice(self, choice: Choice) -> None:
        """Writes the devices and methods of the run: a resumed run must use the same, or it would round differently."""
        if self.writes:
            write_json(self._devices, choice.as_json())

    def choice(self) -> Choice | None:
        """Returns the devices and methods that the run began with; None if that is unknown."""
        then = "how many devices share a batch, and by which methods, is chosen anew"
        value = read_json(self._devices, lambda value: choice_from_json(value) is not None, then)
        return choice_from_json(value)

    def append_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`."""
        if self.writes:
            append_rows(self._metrics, rows)

    def write_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replaces all lines of `metrics.jsonl`."""
        write_rows(self._metrics, rows)

    def take_metrics(self, other: RunDirectory, step: int) -> None:
        """Writes the lines of another run up to a step, but for those of the test split."""
        if self.writes:
            self.write_metrics(row for row in other.metrics() if row["step"] <= step and row["split"] != "test")

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of `metrics.jsonl`, without incomplete or damaged ones."""
        return read_rows(self._metrics)

    def keep_metrics_until(self, step: int, open_steps: int = 0, *, evaluated: bool = False) -> None:
        """Removes the lines after a step, and those of the test split: a resumed run will write them again.

        A file with damaged lines is set aside, and a warning is logged if lines up to the step are missing.

        Args:
          step: at which the run resumes.
          open_steps: number of steps before it that no line covers yet; the resumed run will write their line.
          evaluated: whether the validation split was evaluated at this step, so that it must have a line.
        """
        if not self.writes:
            return
        mend(self._metrics)
        rows = [row for row in self.metrics() if row["step"] <= step and row["split"] != "test"]
        last = step - open_steps
        if last and all(row["step"] < last for row in rows):
            _log.warning("%s has no line of step %d, where the run resumes; it stays missing", self._metrics, last)
        elif evaluated and ("validation", step) not in {(row["split"], row["step"]) for row in rows}:
            _log.warning(
                "%s has no validation line of step %d, where the run resumes; it stays missing", self._metrics, step
            )
        write_rows(self._metrics, rows)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`."""
        write_json(self._summary, summary)

    def summary(self, fits: Callable[[Any], bool] = is_object) -> dict[str, Any] | None:
        """Returns the summary of a complete run; None if there is none, or it cannot be read, or `fits` rejects it.

        A run without a summary is resumed from its last checkpoint.
        """
        return read_json(self._summary, fits, "it is made again")


_LOGGED = ("sinks", "histograms")  # where the results go, which changes none
_EARLIER = (
    "{} holds a run of an earlier version of rnnjax, without model.json, which says what its model is made of; "
    "train it again in another --workdir"
)
_DAMAGED = "{} is damaged, or of a later version of rnnjax, so that the model is not known; train the run again"
_MAY_DIFFER = (*PLACES, "call_seconds", *_LOGGED)


def new_directory(name: str) -> Path:
    """Returns a path in `runs` that does not exist yet, named after the config and the time."""
    base = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([base], (f"{base}-{n}" for n in itertools.count(2)))
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())


def config_digest(config: dict[str, Any]) -> str:
    """Returns the SHA-256 of a config, which identifies the checkpoints of its runs.

    The place of the data, the split over devices, the duration of calls and the sinks are left out: they change no
    result.
    """
    groups = {"data": dict(config.get("data", {})), "parallel": None}
    for name in PLACES:
        groups["data"].pop(name.removeprefix("data."), None)
    left_out = ("call_seconds", *_LOGGED)
    content = {name: value for name, value in (config | groups).items() if name not in left_out}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config as it will be read back."""
    return json.loads(json.dumps(config))
