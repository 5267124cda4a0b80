"""Checkpoints: written atomically by orbax, the best and the last ones kept, verified when read."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from rnnjax.errors import CheckpointError
from rnnjax.parallel.distributed import lost

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


class Checkpoints:
    """The checkpoints of a run, one a step, in a directory.

    Args:
      directory: where they are.
      metric: name of the metric that says which is the best.
      higher_is_better: whether that is the highest.
      read_only: leave everything as it is, what another process is writing included.
    """

    def __init__(
        self, directory: Path, *, metric: str = "loss", higher_is_better: bool = False, read_only: bool = False
    ):
        self._directory = directory
        self._metric, self._sign = metric, 1.0 if higher_is_better else -1.0
        self._policy = BestAndLast({})
        self._damaged: set[int] = set()
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_names=("state", "about"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )
        for step in self.steps():
            about = self._about(step)
            self._policy.scores[step] = self._score(about.get("metrics", {}))
            if not about:
                self._set_aside(step, "what it is about cannot be read")

    def _score(self, metrics: dict[str, float]) -> float:
        value = metrics.get(self._metric, math.nan)
        return -math.inf if math.isnan(value) else self._sign * value

    def _about(self, step: int) -> dict[str, Any]:
        """Returns the digest and the metrics of a checkpoint; nothing where they cannot be read."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        except Exception:  # whatever a damaged file makes orbax raise; restoring the state will say so
            return {}

    def save(self, step: int, state: Any, metrics: dict[str, float]) -> None:
        """Writes a checkpoint in the background; a whole one of this step is left as it is.

        Raises:
          CheckpointError: if it, or the one before it, cannot be written.
        """
        if step in self._manager.all_steps() and step not in self._damaged:
            return
        self._policy.scores[step] = self._score(metrics)
        about = {"sha256": state_digest(state), "metrics": metrics}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
        self._write(lambda: self._replace(step, items))

    def _replace(self, step: int, items: ocp.args.Composite) -> None:
        if step in self._damaged:
            self._manager.delete(step)
            self._damaged.discard(step)
        self._manager.save(step, args=items)

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          CheckpointError: if something could not be.
        """
        self._write(self._manager.wait_until_finished)

    def _write(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # orbax and tensorstore raise many types for a full or unwritable disk
            if lost(error):
                raise
            raise CheckpointError(
                f"a checkpoint could not be written to {self._directory} ({_reason(error)}); "
                "make room or choose another --workdir; the checkpoints before it are whole"
            ) from error

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, the last first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def restore_last(self, like: Any) -> tuple[int, Any] | None:
        """Returns the last checkpoint that is whole, with its step; None where there is no checkpoint at all.

        Args:
          like: a pytree of arrays, or of their shapes, types and shardings, with the structure of the state.

        Raises:
          CheckpointError: if there are checkpoints and none is whole.
        """
        return self._first_whole(self.steps(), like)

    def restore_best(self, like: Any) -> tuple[int, Any] | None:
        """Returns the best checkpoint, or where it is not whole the last, as `restore_last` does."""
        best = self._policy.best(self.steps())
        return self._first_whole(self.steps() if best is None else [best, *self.steps()], like)

    def _first_whole(self, steps: Sequence[int], like: Any) -> tuple[int, Any] | None:
        for step in steps:
            if step in self._damaged:
                continue
            try:
                return step, self._restore(step, like)
            except Exception as error:  # whatever a damaged file makes orbax or tensorstore raise
                self._set_aside(step, _reason(error))
        if not steps:
            return None
        raise CheckpointError(
            f"no checkpoint in {self._directory} can be read; choose another --workdir to start afresh"
        )

    def _set_aside(self, step: int, reason: str) -> None:
        _log.warning("the checkpoint of step %d is damaged (%s); another is used", step, reason)
        self._damaged.add(step)

    def _restore(self, step: int, like: Any) -> Any:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
        if state_digest(state) != self._about(step).get("sha256"):
            raise CheckpointError("its content is not what was written")
        return state

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


def _reason(error: Exception) -> str:
    """Returns the first line of an error, not too much of it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _whole(leaf: Any) -> np.ndarray:
    """Returns an array's values, gathered from all processes where each has a part; then all must call this."""
    if isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def state_digest(state: Any) -> str:
    """Returns the SHA-256 of all arrays of a pytree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        values = _whole(leaf)
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
