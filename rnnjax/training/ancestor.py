"""What a run begins with if that is another run: its parameters, or the whole of it with more epochs to go."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnnjax.config import OptimizerConfig, TrainConfig
from rnnjax.config_group import freeze
from rnnjax.data.dataset import NO_DATA
from rnnjax.errors import CheckpointError, ConfigError, DataError, require
from rnnjax.flag_parser import FlagParser
from rnnjax.parallel.agreement import made_in_each_process
from rnnjax.tasks.task import Kept, Task
from rnnjax.training.directory.checkpoint import ITEMS, Checkpoints
from rnnjax.training.directory.choice import Choice
from rnnjax.training.directory.finding import find_run
from rnnjax.training.directory.histograms import histograms_until
from rnnjax.training.directory.model_file import ModelFile, difference, leaves_by_path, shapes
from rnnjax.training.directory.opened import run_config
from rnnjax.training.directory.run_checkpoints import open_checkpoints
from rnnjax.training.directory.run_directory import RunDirectory, config_digest
from rnnjax.training.directory.summary import is_summary
from rnnjax.training.directory.trust import TRUST
from rnnjax.training.engine import epoch_steps
from rnnjax.training.state import as_items, from_items, with_params
from rnnjax.training.step import TrainState

_log = logging.getLogger(__name__)

_OF_THE_DATA = ("checksum", "end")  # kept beside a model's needs, and written anew by a run of other data
_OF_THE_WHOLE_RUN = ("cosine", "linear", "exponential")  # schedules that end with the run


class Parent(NamedTuple):
    """Where a run is to begin, as it was asked for.

    Attributes:
      how: "init_from", with the parameters alone, or "extend", with all of a run and more epochs.
      directory: of the other run.
      checkpoint: "best" or "last".
    """

    how: str
    directory: str
    checkpoint: str

    def as_json(self) -> dict[str, Any]:
        """Returns it as an object to be written to a file, with the whole path."""
        return {"how": self.how, "directory": os.path.abspath(self.directory), "checkpoint": self.checkpoint}


class Extension(NamedTuple):
    """A run to be gone on with in another directory, and its config with the epochs that are added."""

    parent: Parent
    config: TrainConfig


def read_parent(arguments: Sequence[str]) -> tuple[Parent | None, list[str]]:
    """Returns what a run is to begin with, None if nothing, and the arguments that say nothing of it.

    Args:
      arguments: of the command: ``--init_from DIR[:best|last]``.

    Raises:
      ConfigError: for a flag without a value.
    """
    parser = FlagParser()
    parser.add_argument("--init_from")
    options, rest = parser.parse_known_args(list(arguments))
    if options.init_from is None:
        return None, rest
    path, _, checkpoint = options.init_from.rpartition(":")
    if not path or checkpoint not in ("best", "last"):
        path, checkpoint = options.init_from, "best"
    return Parent("init_from", path, checkpoint), rest


def read_extension(arguments: Sequence[str]) -> tuple[Extension | None, Path | None]:
    """Returns the run to be gone on with, and the work directory; None if the arguments ask for no such thing.

    Args:
      arguments: of the command: ``--extend DIR --by EPOCHS [--data PATH] [--workdir DIR] [--trust]``. Where the work
        directory has begun so before, its own config is taken, and the other run is needed no more.

    Raises:
      ConfigError: for wrong flags, where there is no run, or for one that names code and is not trusted.
    """
    if not any(argument.partition("=")[0] in ("--extend", "-extend") for argument in arguments):
        return None, None
    parser = FlagParser()
    parser.add_argument("--extend", required=True)
    parser.add_argument("--by", type=int, required=True)
    parser.add_argument("--data")
    parser.add_argument("--workdir")
    parser.add_argument("--trust", action="store_true", default=os.environ.get(TRUST) == "1")
    options, rest = parser.parse_known_args(list(arguments))
    require(not rest, f"--extend goes on with the config of a run and takes no {rest[0] if rest else ''}; leave it out")
    require(options.by >= 1, f"--by is a number of epochs from 1 on, got {options.by}")
    parent = Parent("extend", options.extend, "last")
    workdir = Path(options.workdir) if options.workdir else None
    begun = None if workdir is None else _begun_extension(workdir, parent, options.by)
    config = run_config(begun or find_run(options.extend), options.data, trusted=options.trust, trains=True)
    if begun is None:
        config = freeze(dataclasses.replace(config, epochs=config.epochs + options.by))
    return Extension(parent, config), workdir


def _begun_extension(workdir: Path, parent: Parent, epochs: int) -> RunDirectory | None:
    """Returns the run in a directory if it has begun with a parent and so many epochs more; None otherwise."""
    run = RunDirectory(workdir)
    record = run.parent() or {}
    if not run.has_begun() or any(record.get(name) != value for name, value in parent.as_json().items()):
        return None
    values = run.config()
    return run if config_digest(values | {"epochs": values["epochs"] - epochs}) == record.get("config") else None


class Ancestor:
    """Another run, as a new one begins with it.

    Args:
      parent: where and how.

    Raises:
      ConfigError: if there is no run, or it is of an earlier version.
    """

    def __init__(self, parent: Parent):
        self._parent, self._run = parent, find_run(parent.directory)
        self._values = self._run.config()
        self._model: ModelFile = self._run.model()

    @property
    def _extends(self) -> bool:
        return self._parent.how == "extend"

    def kept_for(self, config: TrainConfig) -> Kept | None:
        """Returns what a run of this config takes over of what its ancestor kept; None if it is of another task."""
        if self._values.get("task") != config.task or not self._model.kept:
            return None
        names = [name for name in self._model.kept if name not in _OF_THE_DATA]
        _log.info("taken from %s with its parameters: %s", self._run.path, ", ".join(names))
        return self._model.kept

    def choice(self) -> Choice | None:
        """Returns the devices and methods that a run which goes on begins with; None if it chooses its own."""
        return self._run.choice() if self._extends else None

    def check(self, task: Task, config: TrainConfig) -> None:
        """Raises an error of one sentence if a run of a task cannot begin here.

        Args:
          task: of the new run.
          config: of the new run.

        Raises:
          ConfigError: if parameters do not fit, or a run to be extended is not complete.
          DataError: if a run is to be extended on other data.
        """
        misfit = difference(self._model.params, leaves_by_path(shapes(task)))
        require(misfit is None, f"{self._run.path} does not fit this config: {misfit}")
        if self._extends:
            self._check_extension(task, config)

    def _check_extension(self, task: Task, config: TrainConfig) -> None:
        summary = self._run.summary(is_summary)
        if summary is None:
            raise ConfigError(f"{self._run.path} is not complete; end it first, by --workdir {self._run.path}")
        if summary["data"]["checksum"] != task.data.checksum:
            raise DataError(f"the data differs from that of {self._run.path}; give that by --data, or use --init_from")
        if depends_on_epochs(config.optimizer):
            _log.warning(
                "the schedule %s is of the whole run: rates so far were those of %d epochs, and are those of %d from "
                "here on, so that the result is not that of all at once",
                config.optimizer.schedule,
                self._values["epochs"],
                config.epochs,
            )

    def begin(
        self, task: Task, config: TrainConfig, state: TrainState, run: RunDirectory, own: Checkpoints
    ) -> tuple[int, TrainState]:
        """Writes what a new run begins with into its directory, so that it needs this one no more.

        Args:
          task: of the new run.
          config: of the new run.
          state: the fresh state of the new run, on the devices.
          run: the directory of the new run.
          own: its checkpoints, of which there are none yet.

        Returns:
          the step to go on from, and the state.

        Raises:
          CheckpointError: if the checkpoint cannot be read.
        """
        # Other data is not to be named where it is meant to be other data.
        task_there = task if self._extends else task.with_data(NO_DATA)
        with open_checkpoints(self._run, task_there, self._values, read_only=True) as there:
            step, items = self._checkpoint(there, state)
            about = {"step": step, "params": there.digests(step)["params"], "config": config_digest(self._values)}
            run.write_parent(self._parent.as_json() | about)
            if self._extends:
                whole = epoch_steps(task, config.batch_size) * self._values["epochs"]
                if step != whole:
                    raise CheckpointError(
                        f"{self._run.path} has no checkpoint of its last step, {whole}, that can be read"
                    )
                self._take_over(there, step, state, run, own)
                begun, scores = (step, from_items(items)), there.metrics(step)
            else:
                begun, scores = (0, with_params(state, items["params"])), {}
            own.save(begun[0], as_items(begun[1]), scores)
            own.wait()
        what = "goes on with the whole state" if self._extends else "begins with the parameters"
        _log.info("%s of %s, step %d", what, self._run.path, step)
        return begun

    def _checkpoint(self, there: Checkpoints, state: TrainState) -> tuple[int, dict[str, Any]]:
        """Reads the checkpoint that a run begins with: parameters alone, or all of a run that is gone on with."""
        last = there.steps()[:1]
        if self._extends and last and not set(ITEMS) <= there.digests(last[0]).keys():
            raise ConfigError(f"{self._run.path} keeps parameters alone; begin from it by --init_from")
        return there.restore(self._parent.checkpoint, as_items(state) if self._extends else {"params": state.params})

    def _take_over(self, there: Checkpoints, step: int, state: TrainState, run: RunDirectory, own: Checkpoints) -> None:
        """Writes the lines of a run that is gone on with, and its best checkpoint if that is not its last one.

        Args:
          there: its checkpoints.
          step: of the last one.
          state: a state like those in them.
          run: the directory of the new run.
          own: the checkpoints of the new run.
        """
        run.take_metrics(self._run, step)
        if run.writes:
            histograms_until(run.path, step, self._run.path)
        best = there.restore_best(as_items(state))
        if best is not None and best[0] != step:
            own.save(*best, there.metrics(best[0]))


def ancestor_of(run: RunDirectory, parent: Parent | None) -> Ancestor | None:
    """Returns what a run begins with; None if nothing, or if it has begun already and needs it no more."""
    recorded = run.parent()
    if parent is None and recorded is not None:
        parent = Parent(*(str(recorded.get(name)) for name in Parent._fields))
    return None if parent is None or run.has_begun() else made_in_each_process(lambda: Ancestor(parent))


def depends_on_epochs(config: OptimizerConfig) -> bool:
    """Says whether the rate of a step depends on how many epochs there are."""
    return config.schedule in _OF_THE_WHOLE_RUN
