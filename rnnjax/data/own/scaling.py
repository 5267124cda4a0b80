"""Scaling of features by the training split, and what stands for values that are missing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnnjax.errors import DataError

_log = logging.getLogger(__name__)

_FAR = 1e4  # spreads between zero and a mean, from where on float32 tells values apart badly


class Scaling(NamedTuple):
    """How numbers become a model's inputs: ``(value - mean) / scale``, and 0, the mean, where one is missing.

    Attributes:
      names: of the features.
      mean: of each feature in training.
      scale: standard deviation of each in training, 1 for one that is constant.
      gaps: indices of the features of which some values are missing in training, though not the whole step: each has
        one more input, 1 where its value is missing.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    gaps: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The number of a model's inputs."""
        return len(self.names) + len(self.gaps)

    def inputs(self, values: Float[np.ndarray, "*N I"]) -> Float[np.ndarray, "*N F"]:
        """Returns what a model reads of values, NaN where they are missing, computed in 64 bits."""
        return np.asarray(self._inputs(np.asarray(values, np.float64), np), np.float32)

    def traced_inputs(self, values: Float[Array, "*N I"]) -> Float[Array, "*N F"]:
        """Returns the same as `inputs` where values may be traced, computed in 32 bits."""
        return self._inputs(jnp.asarray(values, jnp.float32), jnp)

    def _inputs(self, values: Any, numpy: Any) -> Any:
        if values.shape[-1:] != (len(self.names),):
            raise ValueError(
                f"values must have {len(self.names)} features ({', '.join(self.names)}) in their last axis, got shape "
                f"{list(values.shape)}"
            )
        missing = numpy.isnan(values)
        scaled = numpy.where(missing, 0, (values - numpy.asarray(self.mean)) / numpy.asarray(self.scale))
        return numpy.concatenate([scaled, missing[..., list(self.gaps)].astype(values.dtype)], axis=-1)

    def to_json(self) -> dict[str, Any]:
        """Returns the scaling as JSON can hold it."""
        return {name: list(value) for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Sequence[Any]]) -> Scaling:
        """Returns the scaling of which `to_json` made `values`."""
        return cls(**{name: tuple(value) for name, value in values.items()})


def learn_scaling(names: Sequence[str], values: Float[np.ndarray, "*N I"], *, scale: bool = True) -> Scaling:
    """Returns the scaling of training values.

    Args:
      names: of the features.
      values: the values, NaN where they are missing.
      scale: whether to standardise; otherwise means are 0 and deviations 1.

    Raises:
      DataError: if a feature has no value.
    """
    rows = values.reshape(-1, len(names))
    missing = np.isnan(rows)
    if missing.all(0).any():
        name = names[int(np.flatnonzero(missing.all(0))[0])]
        raise DataError(f"all values of {name!r} are missing in the training split: leave it out of data.features")
    gaps = tuple(int(each) for each in np.flatnonzero((missing & ~missing.all(1, keepdims=True)).any(0)))
    if not scale:
        return Scaling(tuple(names), (0.0,) * len(names), (1.0,) * len(names), gaps)
    mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    # What is constant but for rounding has no scale.
    varies = deviation > 1e-9 * np.abs(mean)
    far = [name for name, is_far in zip(names, varies & (np.abs(mean) > _FAR * deviation)) if is_far]
    if far:
        _log.warning(
            "values of %s are far from zero beside their spread: training and evaluation scale them in 64 bits, but "
            "predictions from arrays and exported programs read float32; subtract a constant from them",
            ", ".join(map(repr, far)),
        )
    deviation = np.where(varies, deviation, 1.0)
    return Scaling(tuple(names), tuple(mean.tolist()), tuple(deviation.tolist()), gaps)
