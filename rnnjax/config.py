"""Configs: plain dataclasses, built by `get_config(variant)` in a Python file, read through `ml_collections`.

While flags are read a config can be changed; `freeze` ends that. A task derives its own from `TrainConfig`.
"""

from __future__ import annotations

import dataclasses
import os

from rnnjax.cell_config import CellConfig, build_cell
from rnnjax.config_group import ConfigGroup
from rnnjax.errors import require
from rnnjax.optimizer import OptimizerConfig
from rnnjax.whole_numbers import whole_number

__all__ = ["CellConfig", "DataConfig", "OptimizerConfig", "ParallelConfig", "TrainConfig", "build_cell"]


@dataclasses.dataclass
class DataConfig(ConfigGroup):
    """Where the data is, and how it reaches the device.

    Attributes:
      name: which data set of those that the task knows.
      path: a local folder; None looks in RNNJAX_DATA, then for a prepared TFDS directory, then downloads.
      tfds_dir: where TFDS keeps prepared data sets; None takes its default.
      feed: "device" keeps the training split on the device; "host" sends every batch, for data that does not fit.
    """

    name: str = ""
    path: str | None = None
    tfds_dir: str | None = None
    feed: str = "device"

    def check(self) -> None:
        super().check()
        for name in ("path", "tfds_dir"):
            require(_can_name_a_file(getattr(self, name)), f"data.{name} names no file, got {getattr(self, name)!r}")
        require(self.feed in ("device", "host"), f'data.feed must be "device" or "host", got {self.feed!r}')


def _can_name_a_file(path: str | None) -> bool:
    try:
        return path is None or b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@dataclasses.dataclass
class ParallelConfig(ConfigGroup):
    """How the work is split over devices.

    Attributes:
      batch: number of devices that share each batch; "all", or "auto" for as many as pay. A batch that does not divide
        is filled up with examples of weight zero.
      layers: number of devices that share the layers of a stack, for each part of the batch; "all" takes all devices.
      via: what maps a step over devices: "shard_map", or "pmap", which computes the same but splits batches or layers,
        not both.
      tune: whether a step of a long run is measured when it begins, once for a machine: on how many devices, where
        `batch` leaves it open, and of a run of half an hour and more also by which methods.
    """

    batch: str = "auto"
    layers: str = "1"
    via: str = "shard_map"
    tune: bool = True

    def check(self) -> None:
        super().check()
        known = self.batch in ("auto", "all") or (whole_number(self.batch) or 0) >= 1
        require(known, f'parallel.batch must be "auto", "all" or a number of devices, got {self.batch!r}')
        known = self.layers == "all" or (whole_number(self.layers) or 0) >= 1
        require(known, f'parallel.layers must be "all" or a number of devices, got {self.layers!r}')
        require(self.via in ("shard_map", "pmap"), f'parallel.via must be "shard_map" or "pmap", got {self.via!r}')


@dataclasses.dataclass
class TrainConfig(ConfigGroup):
    """What every task shares.

    Attributes:
      task: module of the task, in `rnnjax.tasks` or, with a dot in its name, anywhere.
      seed: of parameters, data order and dropout.
      epochs: passes over the training split.
      evaluate_every: epochs between evaluations, each with a checkpoint; the last epoch has both.
      batch_size: examples in a training step.
      dtype: compute type; parameters are float32.
      steps_per_call: training steps in one compiled call, at most; 0 takes a whole epoch.
      call_seconds: seconds that a call takes at most, about, so that a signal is answered soon; 0 for any time. Neither
        changes the results.
      log_every: steps over which training metrics are averaged for the log, from an epoch's first; its last line may
        be of fewer.
    """

    task: str = ""
    seed: int = 0
    epochs: int = 1
    evaluate_every: int = 1
    batch_size: int = 128
    dtype: str = "float32"
    steps_per_call: int = 0
    call_seconds: float = 5.0
    log_every: int = 50
    cell: CellConfig = dataclasses.field(default_factory=CellConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)

    def check(self) -> None:
        super().check()
        for name in ("epochs", "evaluate_every", "batch_size", "log_every"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.steps_per_call >= 0, f"steps_per_call must not be negative, got {self.steps_per_call}")
        require(self.call_seconds >= 0, f"call_seconds must not be negative, got {self.call_seconds}")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        require(self.seed < 2**32, f"seed must be below {2**32}, got {self.seed}")
        dtypes = ("float32", "bfloat16", "float16")
        require(self.dtype in dtypes, f"dtype must be one of {', '.join(dtypes)}, got {self.dtype!r}")


PLACES = ("data.path", "data.tfds_dir")  # where the data is: two runs that differ there alone are the same
