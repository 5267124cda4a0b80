"""Checks that the processes of a run agree, and raises an error of one process in all of them."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from rnnjax.config import PLACES, TrainConfig
from rnnjax.config_group import differences, to_dict
from rnnjax.errors import ConfigError, DataError, DirectoryInUse

T = TypeVar("T")
Description = Mapping[str, Any]  # of a process: nested mappings of JSON values

_MOST_SHOWN = 6  # fields with their values in one sentence
_REMEDIES = {
    "config": "start all processes with the same arguments",
    "version": "install the same versions for all processes",
    "processes": "start all with the same --processes",
    "data": "give all processes the same data",
}


def describe_run(config: TrainConfig, versions: Mapping[str, str], processes: int) -> Description:
    """Returns what must be equal in all processes of a run: everything but the place of the data."""
    fields = to_dict(config)
    for name in PLACES:
        group, _, field = name.partition(".")
        del fields[group][field]
    return {"config": fields, "version": dict(versions), "processes": processes}


def difference(descriptions: Sequence[Description]) -> str | None:
    """Returns a sentence about the fields in which processes differ from process 0; None if there are none.

    Args:
      descriptions: of each process, in order, as `describe_run` returns them.
    """
    first = descriptions[0]
    clauses: dict[str, str] = {}  # by field
    for process, other in enumerate(descriptions):
        for field in differences(dict(first), dict(other)):
            values = [_shown(_value(each, field)) for each in (first, other)]
            # The first process that differs in a field stands for all that do.
            clauses.setdefault(field, f"{field} is {values[0]} in process 0 and {values[1]} in process {process}")
    if not clauses:
        return None
    shown = list(clauses.values())[:_MOST_SHOWN]
    if len(clauses) > _MOST_SHOWN:
        shown.append(f"and {len(clauses) - _MOST_SHOWN} more differ")
    kinds = {field.partition(".")[0] for field in clauses}
    remedies = " and ".join(remedy for kind, remedy in _REMEDIES.items() if kind in kinds)
    return f"{', '.join(shown)}; {remedies}"


def _value(description: Any, field: str) -> Any:
    for name in field.split("."):
        if not isinstance(description, Mapping) or name not in description:
            return _MISSING
        description = description[name]
    return description


_MISSING = object()


_short_repr = reprlib.Repr()
_short_repr.maxstring = _short_repr.maxother = 100


def _shown(value: Any) -> str:
    return "not there" if value is _MISSING else _short_repr.repr(value)


class CollectiveError(Exception):
    """An error that all processes of a run raise together, so that they can disconnect in order."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


_RAISED_IN_ALL = (ConfigError, DataError, DirectoryInUse)
_RAISED_BY_NAME = {kind.__name__: kind for kind in _RAISED_IN_ALL}


def in_all_processes(function: Callable[[], Any]) -> list[Any]:
    """Calls a function in every process of the run, which all must do together.

    Returns:
      what it returns in each process, in order; it must be a value that JSON can hold.

    Raises:
      CollectiveError: in all processes, if the function raises one of our errors in any: that of the first such one.
    """
    if jax.process_count() == 1:
        return [function()]
    own_error = None
    try:
        outcome = {"value": function()}
    # Handed on as a value, since a process that raised it here would leave the others waiting in the exchange.
    except _RAISED_IN_ALL as error:
        own_error, outcome = error, {"error": type(error).__name__, "sentence": str(error)}
    outcomes = gather_json(outcome)
    for process, other in enumerate(outcomes):
        if "error" in other:
            same_error = _RAISED_BY_NAME[other["error"]](other["sentence"])
            # The process's own error rather than a copy, with the traceback that led to it.
            error = own_error if process == jax.process_index() else None
            raise CollectiveError(error or same_error) from own_error
    return [each["value"] for each in outcomes]


def made_in_each_process(make: Callable[[], T]) -> T:
    """Returns what a function makes in this process, when all have made theirs; it need not be of JSON.

    Raises:
      CollectiveError: as `in_all_processes`.
    """
    made: list[T] = []
    in_all_processes(lambda: made.append(make()))
    return made[0]


_PADDED_TO = 1024  # bytes; messages are padded to multiples of it, so that few programs are compiled


def gather_json(value: Any) -> list[Any]:
    """Returns the values of all processes of the run, in order; all must call this."""
    from jax.experimental import multihost_utils

    content = json.dumps(value).encode()
    # Lengths first: what is gathered must have the same shape in all processes.
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(content))))
    padded = np.zeros(math.ceil(lengths.max() / _PADDED_TO) * _PADDED_TO, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
