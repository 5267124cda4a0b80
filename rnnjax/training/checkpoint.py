"""Checkpoints: written atomically by orbax, the best and the last ones kept, verified when read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from rnnjax.errors import CheckpointError, DataError, first_line
from rnnjax.files import is_number, set_aside
from rnnjax.parallel.distributed import agreed, is_writer, lost, wait_for_all

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class BestAndLast(checkpoint_managers.PreservationPolicy):
    """Keeps the last two checkpoints, so that there is one to fall back on, and the best.

    Attributes:
      scores: the score of each step; the highest is the best, the first of equals.
    """

    scores: dict[int, float]

    def best(self, steps: Iterable[int]) -> int | None:
        """Returns the best of some steps; None where none has a score."""
        scored = [step for step in steps if self.scores.get(step, -math.inf) > -math.inf]
        return max(scored, key=lambda step: (self.scores[step], -step), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Says for each checkpoint, in the order of their steps, whether it is kept."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-2:], self.best(steps)}
        return [step in kept for step in steps]


class Origin(NamedTuple):
    """What a checkpoint is of.

    Attributes:
      run: digest of the run's config.
      data: checksum of the data that it is trained on.
    """

    run: str
    data: str


class Unfinished(NamedTuple):
    """What a run was in the middle of when it was stopped.

    Attributes:
      window: by the metrics' names, their values in the steps that no line of the log covers yet, ``[..., steps]``.
      evaluation: whether the validation split is still to be evaluated.
    """

    window: Mapping[str, list] = {}
    evaluation: bool = False


class Checkpoints:
    """The checkpoints of a run, one a step, in a directory.

    Each says which run, step and data it is of, within the digest that is checked when it is read. Where a checkpoint
    is damaged or of something else, an earlier one is used, and the others are renamed: a run that goes on writes their
    steps again. Of several processes all must call the same methods.

    Args:
      directory: where they are.
      origin: what they are of.
      metric: name of the metric that says which is the best.
      higher_is_better: whether that is the highest.
      read_only: leave everything as it is, what another process is writing included.

    Raises:
      CheckpointError: if they cannot be read or written there.
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
        self._set_aside([step for step in self._damaged if _is_empty(self._path(step))])

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def _score(self, metrics: Any) -> float:
        value = metrics.get(self._metric, math.nan) if isinstance(metrics, dict) else math.nan
        return self._sign * value if is_number(value) and not math.isnan(value) else -math.inf

    def _about(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint says of itself; nothing where that cannot be read."""
        try:
            about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        except Exception:  # whatever a damaged file makes orbax raise; restoring the state will say so
            return {}
        return about if isinstance(about, dict) else {}

    def _problem(self, step: int) -> str | None:
        """Returns why a checkpoint cannot be one of this run, by what it says of itself."""
        about = self._about(step)
        if not about:
            return "what it is about cannot be read"
        if "run" not in about:
            return "it does not say of which run it is"
        if about["run"] != self._origin.run:
            return "it is of a run of another config"
        if about.get("step") != step:
            return f"it is of step {about.get('step')}"
        return None

    def save(self, step: int, state: Any, metrics: dict[str, float], unfinished: Unfinished | None = None) -> None:
        """Writes a checkpoint in the background; one of this step that is there is left as it is.

        But for one that was written before an evaluation: it gives way to the one after.

        Args:
          step: number of steps taken.
          state: what is written.
          metrics: of the validation split.
          unfinished: what else a run that is stopped resumes with; None where it stops at nothing.

        Raises:
          CheckpointError: if it, or the one before it, cannot be written.
        """
        if step in self._manager.all_steps():
            if unfinished is not None or not self.unfinished(step).evaluation:
                return
            self._write(lambda: self._manager.delete(step))
        self._policy.scores[step] = self._score(metrics)
        about = {"run": self._origin.run, "data": self._origin.data, "step": step, "metrics": metrics}
        if unfinished is not None:
            about["unfinished"] = unfinished._asdict()
        about["sha256"] = _digest(about, state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
        self._write(lambda: self._save(step, items))

    def _save(self, step: int, items: ocp.args.Composite) -> None:
        if not self._manager.save(step, args=items):
            raise CheckpointError(f"there is one of a later step, {self._manager.latest_step()}")
        self._written = step

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          CheckpointError: if something could not be.
        """
        self._write(self._wait)

    def _wait(self) -> None:
        self._manager.wait_until_finished()
        if self._written is not None and is_writer() and _is_empty(self._path(self._written)):
            raise CheckpointError(f"that of step {self._written} is not there")

    def _write(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # orbax and tensorstore raise many types for a full or unwritable disk
            if lost(error):
                raise
            raise CheckpointError(
                f"a checkpoint could not be written to {self._directory} ({first_line(error)}); "
                "make room or choose another --workdir; the checkpoints before it are whole"
            ) from error

    def unfinished(self, step: int) -> Unfinished:
        """Returns what a run that was stopped at a step resumes with."""
        return Unfinished(**self._about(step).get("unfinished", {}))

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, the last first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that were saved with a checkpoint: none where none were, or where there is none."""
        return self._about(step).get("metrics", {})

    def restore_last(self, like: Any) -> tuple[int, Any] | None:
        """Returns the last checkpoint that is whole, with its step; None where there is no checkpoint at all.

        Args:
          like: a pytree of arrays, or of their shapes, types and shardings, with the structure of the state.

        Raises:
          CheckpointError: if there are checkpoints and none is whole.
          DataError: if the checkpoint is of other data, and what is read does not fit it or is to be resumed from.
        """
        return self._first_whole(self.steps(), like)

    def restore_best(self, like: Any) -> tuple[int, Any] | None:
        """Returns the best checkpoint, or where it is not whole the last, as `restore_last` does."""
        best = self._policy.best(step for step in self.steps() if step not in self._damaged)
        return self._first_whole(self.steps() if best is None else [best, *self.steps()], like)

    def _first_whole(self, steps: Sequence[int], like: Any) -> tuple[int, Any] | None:
        for step in steps:
            if step in self._damaged:
                continue
            state, problem = self._restore(step, like)
            if not agreed(int(problem is not None)):
                self._set_aside(self._damaged)
                return step, state
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
        """Renames checkpoints that cannot be used: orbax would take no step before them for a new one."""
        steps = sorted(steps)
        if self._read_only or not steps:
            return
        for step in steps:
            if is_writer():
                set_aside(self._path(step), "it cannot be used")
        wait_for_all(f"steps {steps} set aside")
        self._manager.reload()
        self._damaged.difference_update(steps)

    def _restore(self, step: int, like: Any) -> tuple[Any, str | None]:
        """Returns the state of a checkpoint, or why it cannot be used."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        about, items = self._about(step), ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        other_data = about.get("data") != self._origin.data
        try:
            state = self._manager.restore(step, args=items)["state"]
        except Exception as error:  # whatever a damaged file makes orbax or tensorstore raise
            if other_data:
                raise DataError(_OTHER_DATA.format(self._directory, "the model does not fit it")) from error
            return None, first_line(error)
        if _digest(about, state) != about.get("sha256"):
            return None, "its content is not what was written"
        if other_data and not self._read_only:
            raise DataError(_OTHER_DATA.format(self._directory, f"the run cannot resume from step {step} with it"))
        if other_data:
            _log.warning("the data is not that which this run was trained on")
        return state, None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is being written and lets go of the directory, unless a process that writes too is gone."""
        if lost(error):
            return
        try:
            self.wait()
        except CheckpointError:
            if error is None:
                raise
        finally:
            self._manager.close()


_OTHER_DATA = (
    "the data is not that which the run of {} was trained on, and {}; give it the data of the run, by --data in "
    "evaluation and generation and by config.data.path in training"
)


def _open(directory: Path, policy: BestAndLast, *, read_only: bool) -> ocp.CheckpointManager:
    """Returns orbax's manager of a directory.

    Raises:
      CheckpointError: if it cannot be opened.
    """
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
    )
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is no directory; move it away, or choose another --workdir")
    try:
        return ocp.CheckpointManager(directory.absolute(), item_names=("state", "about"), options=options)
    except Exception as error:  # whatever an unwritable disk or a damaged file makes orbax raise
        if lost(error):
            raise
        raise CheckpointError(
            f"{directory} cannot be opened ({first_line(error)}); mend that, or choose another --workdir"
        ) from error


def _is_empty(path: Path) -> bool:
    """Says whether nothing was written of a checkpoint: there is no file in its directory."""
    return not any(each.is_file() for each in path.rglob("*"))


def _whole(leaf: Any) -> np.ndarray:
    """Returns an array's values, gathered from all processes where each has a part; then all must call this."""
    if isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def _digest(about: dict[str, Any], state: Any) -> str:
    """Returns the SHA-256 of what a checkpoint says of itself and of all arrays of its state."""
    said = {name: value for name, value in about.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        values = _whole(leaf)
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
