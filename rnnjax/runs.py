"""Opens finished runs: ``run = rnnjax.load_run(DIR)``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from rnnjax.config import TrainConfig
from rnnjax.errors import ConfigError, require
from rnnjax.streams.lines import answers
from rnnjax.streams.sessions import Sessions
from rnnjax.tasks.options import RANGES, require_options, taken
from rnnjax.tasks.task import Field, Task
from rnnjax.training.directory.model_file import parameter_count
from rnnjax.training.directory.opened import OpenedRun, methods_of_run, open_run
from rnnjax.unrolling.auto import using

_STREAMS = 64  # so many have one program

Columns = dict[str, dict[str, np.ndarray]]  # by split and by name: one value a line of the log


def load_run(directory: str | Path, checkpoint: str = "best", *, trust: bool = False) -> Run:
    """Opens a run that training has written, without its data, without an optimiser, and writing nothing.

    Args:
      directory: the run directory; of a sweep with its best run kept SWEEP/best, or SWEEP/N for run N.
      checkpoint: "best" or "last".
      trust: whether code outside rnnjax may be run that the run's config names, such as a cell of your own.

    Raises:
      ConfigError: if there is no run, it is of an earlier version, or it names such code.
      CheckpointError: if no checkpoint can be read.
    """
    require(checkpoint in ("best", "last"), f'checkpoint must be "best" or "last", got {checkpoint!r}')
    return Run(open_run(str(directory), checkpoint, trusted=trust))


class Run:
    """A finished run, or one under way as it was at a checkpoint.

    Attributes:
      directory: the run directory.
      config: its config.
      step: training steps that led to the parameters.
      cell: the recurrent cell of the model; None where it has none.
      model: the model, such as a Flax module.
      params: the parameters of the model.
      inputs: what `predict` reads: name, shape and dtype, with letters in the shape for free sizes.
    """

    def __init__(self, opened: OpenedRun):
        self._opened = opened
        self.directory: Path = opened.directory.path
        self.config: TrainConfig = opened.config
        self.step: int = opened.step
        self.cell, self.model, self.params = opened.task.cell, opened.task.model, opened.params
        self.inputs: Mapping[str, Field] = opened.task.inputs

    def __repr__(self) -> str:
        return f"<run {str(self.directory)!r}: {self.config.task}, step {self.step}>"

    @property
    def task(self) -> Task:
        """The run's task without its data, for those who go on from here with functions of their own."""
        return self._opened.task

    @property
    def parameter_count(self) -> int:
        """How many numbers the parameters are."""
        return parameter_count(self.params)

    @functools.cached_property
    def metrics(self) -> Columns:
        """The lines of `metrics.jsonl` as columns: ``metrics["validation"]["loss"]``, NaN where a line has none."""
        return columns(self._opened.directory.metrics())

    @functools.cached_property
    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`; None as long as the run is not complete."""
        return self._opened.directory.summary()

    def predict(self, inputs: Any) -> Any:
        """Returns what the model makes of inputs, such as logits, without dropout, as NumPy arrays.

        Args:
          inputs: an array ``[B, ...]`` for the first of `Run.inputs`, or arrays by name.

        Raises:
          ConfigError: if the run predicts nothing from arrays.
          ValueError: for inputs of other names, shapes or kinds of numbers.
        """
        require(bool(self.inputs), f"{self.directory} predicts nothing from arrays; {self._can()}")
        given = inputs if isinstance(inputs, Mapping) else {next(iter(self.inputs)): inputs}
        arrays = {name: fitting(name, values, self.inputs) for name, values in given.items()}
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise ValueError(f"the model reads {', '.join(self.inputs)}: give {', '.join(missing)} too, in a dict")
        with using(methods_of_run(self._opened.directory)):
            return jax.device_get(self._predict(self.params, arrays))

    @functools.cached_property
    def _predict(self) -> Any:
        return jax.jit(self.task.predict)

    def generate(self, prompt: str | None = None, *, lines: Iterable[str] = (), **options: Any) -> str:
        """Returns what ``python -m rnnjax.generate`` prints.

        Args:
          prompt: what to continue; None takes the task's default.
          lines: in place of those of the standard input, for tasks that answer lines.
          options: of the task, the keyword arguments of its `generate`, such as `length` and `temperature`.

        Raises:
          ConfigError: if the run generates nothing, for an option that its task has not, or one out of its range.
        """
        given = options if prompt is None else {"prompt": prompt, **options}
        return "\n".join(generated(self._opened, given, {"lines": lines}))

    def translate(self, lines: Sequence[str], *, beam_size: int = 4) -> list[str]:
        """Returns the best translation of every line.

        Args:
          lines: the sources.
          beam_size: width of the beam; 1 is greedy search.

        Raises:
          ConfigError: if the run does not translate, or the beam is too wide.
        """
        translate = self.task.translate
        if translate is None:
            raise ConfigError(f"{self.directory} does not translate; {self._can()}")
        require(not isinstance(lines, str), "translate takes a list of lines, got one text; put it in a list")
        require(all(isinstance(line, str) for line in lines), "translate takes a list of lines of text")
        width = RANGES["beam_size"]
        require(width.holds(beam_size), f"beam_size must be {width.words}, got {beam_size}")
        with using(methods_of_run(self._opened.directory)):
            return translate(self.params, list(lines), beam_size)

    def _can(self) -> str:
        """Returns what the run is for, for messages."""
        able = {"predict": self.inputs, "generate": self.task.generate, "translate": self.task.translate}
        names = [name for name, way in able.items() if way]
        return f"use {' or '.join(names)}" if names else "evaluate it with rnnjax.evaluate"


def generated(
    opened: OpenedRun, options: Mapping[str, Any], context: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yields what a run generates, line by line.

    Args:
      opened: the run.
      options: of its task.
      context: the lines of the standard input and the directory of plots, which a task is given if it takes them.
      prefix: what stands before the name of an option in messages.

    Raises:
      ConfigError: for an option that the task has not, or one out of its range, or a task that generates nothing.
    """
    generate = opened.task.generate
    if generate is None:
        raise ConfigError(f"the task of {opened.directory.path} generates nothing; evaluate it with rnnjax.evaluate")
    require_options(generate, options, f"the task {opened.config.task}", prefix=prefix)
    with using(methods_of_run(opened.directory)):
        yield from generate(opened.params, **options, **taken(generate, context))


def streamed(opened: OpenedRun, options: Mapping[str, Any], prefix: str, lines: Iterable[str]) -> Iterator[str]:
    """Yields an answer to each line, in which the model's state is carried on from line to line.

    Args:
      opened: the run.
      options: of an answer.
      prefix: what stands before the name of an option in messages.
      lines: what is answered, without line ends.

    Raises:
      ConfigError: for an option that an answer has not, or one out of its range, or a task that answers no lines so.
      DataError: for a line that cannot be read.
    """
    task = opened.task
    if task.stream is None:
        where = f"the task of {opened.directory.path}"
        raise ConfigError(f"{where} answers no lines step by step; leave {prefix}stream out")
    require_options(task.stream.say, options, f"the task {opened.config.task} with {prefix}stream", prefix=prefix)
    say = functools.partial(task.stream.say, **options)
    yield from answers(Sessions(task.model, opened.params, _STREAMS), lines, task.stream.read, say)


def columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Returns lines of `metrics.jsonl` as one array for every split and name; NaN where a line lacks a name."""
    found: Columns = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        of_split = [row for row in rows if row["split"] == split]
        names = dict.fromkeys(name for row in of_split for name in row if name != "split")
        found[split] = {name: np.array([row.get(name, math.nan) for row in of_split]) for name in names}
    return found


def fitting(name: str, values: Any, fields: Mapping[str, Field]) -> Shaped[np.ndarray, "..."]:
    """Returns an input as the model reads it.

    Args:
      name: of the input.
      values: of it.
      fields: the inputs that the model reads.

    Raises:
      ValueError: if the model has no such input, it is of another shape or kind of numbers, or one is out of range.
    """
    if name not in fields:
        raise ValueError(f"the model reads {', '.join(fields)}, not {name!r}")
    shape, dtype, below = fields[name]
    wanted = ", ".join(map(str, shape))
    try:
        array = np.asarray(values)
    except ValueError:  # of lists of unequal length
        raise ValueError(f"{name} must be one array of shape [{wanted}]: make the shorter ones as long") from None
    fits = len(array.shape) == len(shape) and all(
        isinstance(size, str) or size == found for size, found in zip(shape, array.shape)
    )
    if not fits:
        raise ValueError(f"{name} must have shape [{wanted}], got {list(array.shape)}")
    if 0 in array.shape[1:]:
        raise ValueError(f"{name} must hold something along every axis but the first, got {list(array.shape)}")
    both_whole = array.dtype.kind in "iu" and np.dtype(dtype).kind in "iu"
    if not both_whole and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"{name} must hold numbers of type {dtype}, got {array.dtype}")
    if below is not None:
        _check_tokens(name, array, below)
    return _within(name, array, np.dtype(dtype))


def _check_tokens(name: str, array: np.ndarray, below: int) -> None:
    """Raises `ValueError` for a token that there is none of, which a lookup would take for another."""
    wrong = array[(array < 0) | (array >= below)]
    if wrong.size:
        raise ValueError(f"{name} must hold tokens from 0 to {below - 1}, got {wrong[0]}")


def _within(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns an array in another type, raising where a number would become another one."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    changed = cast != array if dtype.kind in "iub" else np.isinf(cast) & np.isfinite(array)
    if changed.any():
        raise ValueError(f"{name} must hold numbers of type {dtype}, got {array[changed][0]}")
    return cast
