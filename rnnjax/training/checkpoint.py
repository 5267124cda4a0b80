"""Checkpoints: written atomically by orbax, the best and the last ones kept, verified when read."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rnnjax.errors import CheckpointError

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run, one a step, in a directory.

    The last two are kept, so that there is one to fall back on, and the best by a metric.
    """

    def __init__(self, directory: Path, *, metric: str = "loss", higher_is_better: bool = False):
        sign = 1.0 if higher_is_better else -1.0

        def score(metrics: dict[str, float]) -> float:
            value = metrics.get(metric, math.nan)
            return -math.inf if math.isnan(value) else sign * value

        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_names=("state", "digest"),
            options=ocp.CheckpointManagerOptions(
                best_fn=score,
                best_mode="max",
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [checkpoint_managers.LatestN(2), checkpoint_managers.BestN(get_metric_fn=score, n=1)]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, metrics: dict[str, float]) -> None:
        """Writes a checkpoint in the background; a step that is there already is left as it is.

        Raises:
          CheckpointError: if it, or the one before it, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), digest=ocp.args.JsonSave({"sha256": state_digest(state)})
        )
        self._write(lambda: self._manager.save(step, args=items, metrics=metrics))

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          CheckpointError: if something could not be.
        """
        self._write(self._manager.wait_until_finished)

    def _write(self, action: Any) -> None:
        try:
            action()
        except Exception as error:  # orbax and tensorstore raise many types for a full or unwritable disk
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"a checkpoint could not be written to {self._directory} ({reason}); "
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
        return self._first_whole(iter(self.steps()), like)

    def restore_best(self, like: Any) -> tuple[int, Any] | None:
        """Returns the best checkpoint, or where it is not whole the last, as `restore_last` does."""
        best = self._manager.best_step()
        return self._first_whole(iter([best, *self.steps()] if best is not None else self.steps()), like)

    def _first_whole(self, steps: Iterator[int], like: Any) -> tuple[int, Any] | None:
        found = None
        for step in steps:
            found = step
            try:
                return step, self._restore(step, like)
            except Exception as error:  # whatever a damaged file makes orbax or tensorstore raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                _log.warning("the checkpoint of step %d is damaged (%s); trying the one before it", step, reason[:200])
        if found is None:
            return None
        raise CheckpointError(
            f"no checkpoint in {self._directory} can be read; choose another --workdir to start afresh"
        )

    def _restore(self, step: int, like: Any) -> Any:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), digest=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=items)
        if state_digest(found["state"]) != found["digest"]["sha256"]:
            raise CheckpointError("its content is not what was written")
        return found["state"]

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is being written and lets go of the directory."""
        try:
            self.wait()
        except CheckpointError:
            if error is None:
                raise
        finally:
            self._manager.close()


def state_digest(state: Any) -> str:
    """Returns the SHA-256 of all arrays of a pytree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        values = np.asarray(leaf)
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
