"""What the processes of a run must have in common, and errors of one that are errors of all."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rnnjax import errors
from rnnjax.config import PLACES, TrainConfig
from rnnjax.config_group import differences, to_dict

Said = Mapping[str, Any]

_SHOWN = 6  # fields with their values in one sentence
_TO_DO = {
    "config": "start all processes with the same arguments",
    "version": "install the same versions for all processes",
    "processes": "start all with the same --processes",
    "data": "give all processes the same data",
}


def run_of(config: TrainConfig, versions: Mapping[str, str], processes: int) -> Said:
    """Returns what a process says of itself, all but where its data is: it must be the same in all of a run."""
    fields = to_dict(config)
    for name in PLACES:
        group, _, field = name.partition(".")
        del fields[group][field]
    return {"config": fields, "version": dict(versions), "processes": processes}


def difference(said: Sequence[Said]) -> str | None:
    """Returns a sentence that names what the processes do not have in common; None where they do.

    Args:
      said: what each process says, in order, as `run_of`: nested mappings of JSON's values.
    """
    named: dict[str, str] = {}
    for process, other in enumerate(said):
        for field in differences(dict(said[0]), dict(other)):
            ours, theirs = (_shown(_value(each, field)) for each in (said[0], other))
            named.setdefault(field, f"{field} is {ours} in process 0 and {theirs} in process {process}")
    if not named:
        return None
    kinds = {field.partition(".")[0] for field in named}
    to_do = " and ".join(todo for kind, todo in _TO_DO.items() if kind in kinds)
    shown = list(named.values())[:_SHOWN] + ([f"and {len(named) - _SHOWN} more differ"] if len(named) > _SHOWN else [])
    return f"{', '.join(shown)}; {to_do}"


def _value(said: Any, field: str) -> Any:
    for name in field.split("."):
        if not isinstance(said, Mapping) or name not in said:
            return _NOT_THERE
        said = said[name]
    return said


_NOT_THERE = object()


_reader = reprlib.Repr()
_reader.maxstring = _reader.maxother = 100


def _shown(value: Any) -> str:
    return "not there" if value is _NOT_THERE else _reader.repr(value)


class OfAll(Exception):
    """An error that all processes of a run have raised together: they can leave in order."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


_SHARED = (
    errors.ConfigError,
    errors.DataError,
    errors.DirectoryInUse,
)


def in_all(act: Callable[[], Any]) -> list[Any]:
    """Returns what a function returns in each process of the run, in order: JSON's values. All of them must call it.

    Raises:
      OfAll: in all of them, where it raises one of our errors in any; of several the first process's.
    """
    if jax.process_count() == 1:
        return [act()]
    failed = None
    try:
        said = {"value": act()}
    except _SHARED as error:
        failed, said = error, {"error": type(error).__name__, "sentence": str(error)}
    found = gathered(said)
    for process, each in enumerate(found):
        if "error" in each:
            own = process == jax.process_index() and failed
            raise OfAll(own or getattr(errors, each["error"])(each["sentence"])) from failed
    return [each["value"] for each in found]


_ROOM = 1024  # bytes are gathered in multiples of it, so that few programs are compiled


def gathered(said: Any) -> list[Any]:
    """Returns what every process of the run says, in order."""
    from jax.experimental import multihost_utils

    content = json.dumps(said).encode()
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(content))))
    padded = np.zeros(-(-int(lengths.max()) // _ROOM) * _ROOM, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
