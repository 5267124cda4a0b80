"""Checkpoints: written atomically by orbax, verified when read; the best and the last two are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rnnjax.errors import CheckpointError, DataError, first_line
from rnnjax.files import is_number, set_aside
from rnnjax.parallel.distributed import is_loss_of_process, is_writer, maximum_over_processes, wait_for_all
from rnnjax.training.directory.digest import digest

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class BestAndLast(checkpoint_managers.PreservationPolicy):
    """Keeps the last two checkpoints, so that one remains if the last is damaged, and the best one.

    Attributes:
      scores: the score of each step; the highest is the best, the earliest of equals.
    """

    scores: dict[int, float]

    def best(self, steps: Iterable[int]) -> int | None:
        """Returns the best of some steps; None if none has a score."""
        scored = [step for step in steps if self.scores.get(step, -math.inf) > -math.inf]
        return max(scored, key=lambda step: (self.scores[step], -step), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Says for each checkpoint, in the order given, whether it is kept."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        # None, if no step has a score, is no step.
        preserved = {*sorted(steps)[-2:], self.best(steps)}
        return [step in preserved for step in steps]


class Origin(NamedTuple):
    """The run and the data that a checkpoint belongs to.

    Attributes:
      run: digest of the run's config.
      data: checksum of the training data; None where there is none, so that it cannot be compared.
    """

    run: str
    data: str | None


class Unfinished(NamedTuple):
    """What a run had not finished when it was stopped.

    Attributes:
      window: by name, the metrics ``[..., steps]`` of the steps that no line of the log covers yet.
      evaluation: whether the validation split is still to be evaluated.
    """

    window: Mapping[str, list] = {}
    evaluation: bool = False


ITEMS = ("params", "state")
"""What a checkpoint is made of: the parameters, which can be read alone, and all else that training goes on from."""

Items = Mapping[str, Any]  # pytrees of arrays by the names in `ITEMS`, some or all of them


class Checkpoints:
    """The checkpoints of a run, in a directory.

    Each one states its run, step and data; digests of this and of each item are checked when it is read. If a
    checkpoint is damaged or belongs to another run, an earlier one is used instead. The unusable ones are renamed, so
    that a resumed run can write their steps again. If there are several processes, all must call the same methods.

    Args:
      directory: of the checkpoints.
      origin: the run and the data that they belong to; where reading, no data is None.
      metric: name of the metric that decides which is the best.
      higher_is_better: whether the highest is the best.
      read_only: whether to change nothing, such as what another process is writing.

    Raises:
      CheckpointError: if checkpoints cannot be read or written there.
    """

    def __init__(
        self,
        directory: Path,
        origin: Origin,
        *,
        metric: str = "loss",
        higher_is_better: bool = False,
        read_only: bool = False,
    ):
        self._directory, self._origin, self._read_only = directory, origin, read_only
        self._metric, self._sign = metric, 1.0 if higher_is_better else -1.0
        self._policy = BestAndLast({})
        self._damaged: set[int] = set()
        self._written: int | None = None
        self._manager = _open(directory, self._policy, read_only=read_only)
        for step in self.steps():
            self._policy.scores[step] = self._score(self._about(step).get("metrics"))
            problem = self._problem(step)
            if problem:
                self._note_damage(step, problem)
        # Only the empty ones, of which nothing can be lost; the others wait until one is found that is whole.
        self._set_aside([step for step in self._damaged if _is_empty(self._path(step))])

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def _score(self, metrics: Any) -> float:
        value = metrics.get(self._metric, math.nan) if isinstance(metrics, dict) else math.nan
        return self._sign * value if is_number(value) and not math.isnan(value) else -math.inf

    def _about(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint states about itself; an empty dict if that cannot be read."""
        try:
            about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        except Exception:  # orbax raises errors of many types for a damaged file; restoring the state will report it
            return {}
        return about if isinstance(about, dict) else {}

    def _problem(self, step: int) -> str | None:
        """Returns why a checkpoint cannot belong to this run, by what it states about itself; None if it can."""
        about = self._about(step)
        if not about:
            return "its description cannot be read"
        if "run" not in about:
            return "it does not say which run it belongs to"
        if about["run"] != self._origin.run:
            return "it belongs to a run of another config"
        if about.get("step") != step:
            return f"it is that of step {about.get('step')}"
        return None

    def save(self, step: int, items: Items, metrics: dict[str, float], unfinished: Unfinished | None = None) -> None:
        """Writes a checkpoint in the background, unless there is already one of this step.

        One that was written before the evaluation at this step is replaced by the one after the evaluation.

        Args:
          step: number of steps taken.
          items: what it is made of.
          metrics: of the validation split.
          unfinished: what a resumed run must still do; None after an evaluation at the end of an epoch.

        Raises:
          CheckpointError: if it, or the previous one, cannot be written.
        """
        if step in self._manager.all_steps():
            if unfinished is not None or not self.unfinished(step).evaluation:
                return
            self._write(lambda: self._manager.delete(step))
        self._policy.scores[step] = self._score(metrics)
        about = {"run": self._origin.run, "data": self._origin.data, "step": step, "metrics": metrics}
        if unfinished is not None:
            about["unfinished"] = unfinished._asdict()
        # Last, since each covers all other entries.
        about["sha256"] = {name: digest(about, item) for name, item in items.items()}
        arguments = {name: ocp.args.StandardSave(jax.tree.map(_one_copy, item)) for name, item in items.items()}
        self._write(lambda: self._save(step, ocp.args.Composite(**arguments, about=ocp.args.JsonSave(about))))

    def _save(self, step: int, arguments: ocp.args.Composite) -> None:
        # Orbax skips a save below its latest known step without a word.
        if not self._manager.save(step, args=arguments):
            raise CheckpointError(f"there is one of a later step, {self._manager.latest_step()}")
        self._written = step

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          CheckpointError: if something could not be.
        """
        self._write(self._wait)

    def _wait(self) -> None:
        self._manager.wait_until_finished()
        if self._written is not None and is_writer() and _is_empty(self._path(self._written)):
            raise CheckpointError(f"that of step {self._written} is missing")

    def _write(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # orbax and tensorstore raise errors of many types for a full or unwritable disk
            if is_loss_of_process(error):
                raise
            raise CheckpointError(
                f"a checkpoint could not be written to {self._directory} ({first_line(error)}); "
                "make room or choose another --workdir; earlier checkpoints are intact"
            ) from error

    def unfinished(self, step: int) -> Unfinished:
        """Returns what a run that was stopped at `step` had not finished."""
        return Unfinished(**self._about(step).get("unfinished", {}))

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in descending order."""
        return sorted(self._manager.all_steps(), reverse=True)

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that were saved with the checkpoint of a step; an empty dict if there are none."""
        return self._about(step).get("metrics", {})

    def digests(self, step: int) -> dict[str, str]:
        """Returns the digest of each item in the checkpoint of a step; an empty dict if they cannot be read."""
        digests = self._about(step).get("sha256")
        return digests if isinstance(digests, dict) else {}

    def restore_last(self, like: Items) -> tuple[int, dict[str, Any]] | None:
        """Returns the step and the items of the last undamaged checkpoint; None if there is no checkpoint at all.

        Args:
          like: the items to read, as pytrees of arrays, or of their shapes, types and shardings.

        Raises:
          CheckpointError: if there are checkpoints and all are damaged.
          DataError: if the checkpoint belongs to other data, and either does not fit `like` or is to be resumed from.
        """
        return self._first_undamaged(self.steps(), like)

    def restore_best(self, like: Items) -> tuple[int, dict[str, Any]] | None:
        """Returns the best checkpoint as `restore_last` does the last; the last one if the best is damaged."""
        best = self._policy.best(step for step in self.steps() if step not in self._damaged)
        return self._first_undamaged(self.steps() if best is None else [best, *self.steps()], like)

    def restore(self, which: str, like: Items) -> tuple[int, dict[str, Any]]:
        """Returns the "best" or the "last" checkpoint, as `restore_best` and `restore_last` do.

        Raises:
          CheckpointError: if there is none.
        """
        found = self.restore_best(like) if which == "best" else self.restore_last(like)
        if found is None:
            raise CheckpointError(f"{self._directory} holds no checkpoint; train first")
        return found

    def _first_undamaged(self, steps: Sequence[int], like: Items) -> tuple[int, dict[str, Any]] | None:
        for step in steps:
            if step in self._damaged:
                continue
            items, problem = self._restore(step, like)
            # All processes must resume from the same checkpoint, so that one that none can use is used by none.
            if not maximum_over_processes(int(problem is not None)):
                # Not before one is whole: with all of them gone, the next start would begin afresh.
                self._set_aside(self._damaged)
                return step, items
            self._note_damage(step, problem or "another process cannot read it")
        if not steps:
            return None
        raise CheckpointError(
            f"no checkpoint in {self._directory} can be read; choose another --workdir to start afresh"
        )

    def _note_damage(self, step: int, reason: str) -> None:
        _log.warning("the checkpoint of step %d is damaged (%s); another is used", step, reason)
        self._damaged.add(step)

    def _set_aside(self, steps: Iterable[int]) -> None:
        """Renames checkpoints that cannot be used: orbax would refuse to write checkpoints of earlier steps."""
        steps = sorted(steps)
        if self._read_only or not steps:
            return
        for step in steps:
            if is_writer():
                set_aside(self._path(step), "it cannot be used")
        wait_for_all(f"steps {steps} set aside")
        self._manager.reload()
        self._damaged.difference_update(steps)

    def _restore(self, step: int, like: Items) -> tuple[dict[str, Any], str | None]:
        """Returns items of a checkpoint, and why it cannot be used, None if it can."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
        arguments = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
        about, digests = self._about(step), self.digests(step)
        other_data = self._origin.data is not None and about.get("data") != self._origin.data
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
            items = {name: restored[name] for name in like}
        except Exception as error:  # orbax and tensorstore raise errors of many types for a damaged file
            if other_data:
                raise DataError(_OTHER_DATA.format(self._directory, "the model does not fit it")) from error
            return {}, first_line(error)
        # Before the data is judged: of a damaged checkpoint nothing that it states can be believed.
        if any(digest(about, item) != digests.get(name) for name, item in items.items()):
            return {}, "its content has changed since it was written"
        if other_data and not self._read_only:
            raise DataError(_OTHER_DATA.format(self._directory, f"the run cannot resume from step {step} with it"))
        if other_data:
            _log.warning("the data differs from what this run was trained on")
        return items, None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits until everything is written, and closes the directory, unless another process of the run is lost."""
        if is_loss_of_process(error):
            return
        try:
            self.wait()
        except CheckpointError:
            if error is None:
                raise
        finally:
            self._manager.close()


_OTHER_DATA = (
    "the data differs from what the run of {} was trained on, and {}; give it the data of the run, by --data in "
    "evaluation and generation and by config.data.path in training"
)


def _open(directory: Path, policy: BestAndLast, *, read_only: bool) -> ocp.CheckpointManager:
    """Returns orbax's manager of a directory.

    Raises:
      CheckpointError: if it cannot be opened.
    """
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        save_interval_steps=0 if read_only else 1,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
    )
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; move it away, or choose another --workdir")
    try:
        with _without_warnings() if read_only else contextlib.nullcontext():
            return ocp.CheckpointManager(directory.absolute(), item_names=(*ITEMS, "about"), options=options)
    except Exception as error:  # orbax raises errors of many types for an unwritable disk or a damaged file
        if is_loss_of_process(error):
            raise
        raise CheckpointError(
            f"{directory} cannot be opened ({first_line(error)}); repair that, or choose another --workdir"
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences orbax, which warns of reading only, as it was asked to."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _is_empty(path: Path) -> bool:
    """Says whether nothing of a checkpoint was written: its directory contains no file."""
    return not any(entry.is_file() for entry in path.rglob("*"))


def _one_copy(leaf: Any) -> Any:
    """Returns an array that all of this process's devices have as the first has it, which orbax writes as it is.

    Of copies it would cut a part for each device, by a program for each shape.
    """
    whole = isinstance(leaf, jax.Array) and leaf.is_fully_addressable and leaf.is_fully_replicated
    return leaf.addressable_data(0) if whole else leaf
