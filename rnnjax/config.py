"""The groups of a config that all tasks share. They are plain dataclasses, which config files build.

A config can be changed while flags are read, until `freeze`. Every task derives its own config from `TrainConfig`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from rnnjax.cell_config import CellConfig, build_cell
from rnnjax.config_group import ConfigGroup
from rnnjax.errors import did_you_mean, require
from rnnjax.leaf_paths import is_pattern
from rnnjax.optimizer import OptimizerConfig
from rnnjax.whole_numbers import whole_number

__all__ = ["CellConfig", "DataConfig", "OptimizerConfig", "ParallelConfig", "TrainConfig", "build_cell"]


@dataclasses.dataclass
class DataConfig(ConfigGroup):
    """Where the data is, and how it reaches the devices.

    Attributes:
      name: a data set of the task.
      path: a local folder; if it is None, RNNJAX_DATA is tried, then a prepared TFDS directory, then the download.
      tfds_dir: where TFDS stores prepared data sets; None takes its default.
      feed: "device" keeps the training split on the devices; "host" sends every batch, for data that does not fit.
    """

    name: str = ""
    path: str | None = None
    tfds_dir: str | None = None
    feed: str = "device"

    def read_other(self, path: str) -> None:
        """Makes this the group of other data, which a finished run is evaluated on or reads."""
        self.path = path

    def check(self) -> None:
        super().check()
        for name in ("path", "tfds_dir"):
            require(_can_name_a_file(getattr(self, name)), f"data.{name} names no file, got {getattr(self, name)!r}")
        require(self.feed in ("device", "host"), f'data.feed must be "device" or "host", got {self.feed!r}')


def check_source(
    data: DataConfig, names: Sequence[str], made: tuple[str, str], own: tuple[str, str] | None = None
) -> None:
    """Raises `ConfigError` unless a task has the data that is named, and it has a path where it needs one alone.

    Args:
      data: the group.
      names: of the task's data sets.
      made: the one that needs no files, and a phrase that says why.
      own: the one of one's own files, and what is in them.
    """
    require(data.name in names, f"data.name must be one of {', '.join(names)}, got {data.name!r}")
    (made_name, reason), (own_name, what) = made, own or ("", "")
    needless = data.name == made_name and data.path is not None
    other = own_name or names[0]
    require(not needless, f"{reason}; leave data.path out, or add --config.data.name={other}")
    require(data.name != own_name or bool(data.path), f"{what} of your own need --config.data.path")


def check_held_out(validation_fraction: float, test_fraction: float) -> None:
    """Raises `ConfigError` unless the fractions of the data that are held out leave some for training."""
    for name, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        require(0 < fraction < 1, f"data.{name} must be between 0 and 1, got {fraction}")
    total = validation_fraction + test_fraction
    require(total < 1, f"data.validation_fraction and data.test_fraction must leave data, got {total:g} together")


def _can_name_a_file(path: str | None) -> bool:
    try:
        return path is None or b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@dataclasses.dataclass
class ParallelConfig(ConfigGroup):
    """How computation is split over devices.

    Attributes:
      batch: number of devices that share each batch; "all", or "auto" for the number that is expected to be fastest. A
        batch that does not divide evenly is padded with examples of weight zero.
      layers: number of devices that share the layers of a stack, for each part of the batch; "all" takes all devices.
      time: number of devices that share the steps of each sequence, likewise; for linear and diagonal cells only, such
        as LRU and ParaGRU.
      map: what maps a step over devices: "shard_map", or "pmap", which computes the same but can split only one of
        batches, layers and time.
      tune: whether a step of a long run is measured before it starts, once per machine: on how many devices, if `batch`
        leaves that open, and in a run of half an hour or more also by which methods.
    """

    batch: str = "auto"
    layers: str = "1"
    time: str = "1"
    map: str = "shard_map"
    tune: bool = True

    def check(self) -> None:
        super().check()
        known = self.batch in ("auto", "all") or (whole_number(self.batch) or 0) >= 1
        require(known, f'parallel.batch must be "auto", "all" or a number of devices, got {self.batch!r}')
        for name in ("layers", "time"):
            value = getattr(self, name)
            known = value == "all" or (whole_number(value) or 0) >= 1
            require(known, f'parallel.{name} must be "all" or a number of devices, got {value!r}')
        both = "1" not in (self.layers, self.time)
        require(not both, f"parallel.layers and parallel.time cannot both be split, got {self.layers} and {self.time}")
        require(self.map in ("shard_map", "pmap"), f'parallel.map must be "shard_map" or "pmap", got {self.map!r}')


@dataclasses.dataclass
class TrainConfig(ConfigGroup):
    """The fields that all tasks share.

    Attributes:
      task: module of the task in `rnnjax.tasks`, or one beside the config; a name with a dot is any module's path.
      seed: of parameters, order of the data and dropout.
      epochs: passes over the training split.
      evaluate_every: epochs from one evaluation, with a checkpoint, to the next; there is always one after the last.
      batch_size: examples in a training step.
      dtype: type in which products are computed and activations kept, float32 or bfloat16: that of the cell's inputs.
        cell.dtype has the cell compute in another one. Parameters and the optimiser are float32 (cell.param_dtype),
        and so is the state from step to step, also in bfloat16, unless cell.state_dtype says so. float16 is refused
        in each of them: its smallest gradients are zero, as losses are not scaled.
      steps_per_call: most training steps in one compiled call; 0 takes a whole epoch.
      call_seconds: about how many seconds a call may take, so that a signal is handled soon; 0 for no limit. Neither
        this nor `steps_per_call` changes the results.
      log_every: training steps that a line of the log is the mean of; the last line of an epoch may be of fewer.
      frozen: a regular expression; parameters whose whole path it matches, such as embedding.embedding, stay as they
        are.
      sinks: where lines go besides `metrics.jsonl` and TensorBoard: wandb, mlflow, or your own as package.module:Class.
      histograms: whether TensorBoard gets histograms of the parameters at every evaluation.
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
    frozen: str = ""
    sinks: tuple[str, ...] = ()
    histograms: bool = False
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
        for name in self.sinks:
            _check_sink(name)
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        require(self.seed < 2**32, f"seed must be below {2**32}, got {self.seed}")
        require(is_pattern(self.frozen), f"frozen must be a regular expression, got {self.frozen!r}")
        types = {"dtype": self.dtype} | {f"cell.{name}": self.cell.chosen().get(name) for name in _TYPES_OF_CELL}
        for name, dtype in types.items():
            require(dtype != "float16", f"small gradients are zero in float16, got {name} = {dtype!r}; take bfloat16")
        require(self.dtype in _DTYPES, f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")


_DTYPES = ("float32", "bfloat16")
_TYPES_OF_CELL = ("dtype", "param_dtype", "state_dtype")

SINKS = ("wandb", "mlflow")  # those of the library that a config can name


def _check_sink(name: str) -> None:
    """Raises unless a name can be that of a sink; no module is imported, as a config may be someone else's."""
    path, colon, kind = name.partition(":")
    own = bool(colon) and kind.isidentifier() and all(part.isidentifier() for part in path.split("."))
    known = f"choose from {', '.join(SINKS)}{did_you_mean(name, SINKS)}, or name your own as package.module:Class"
    require(own or name in SINKS, f"unknown sink {name!r}; {known}")


PLACES = ("data.path", "data.tfds_dir")  # of the data: runs that differ only in these fields are the same
