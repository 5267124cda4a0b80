"""The devices and methods of a run where the config leaves them open: chosen when it starts, kept in its directory."""

from __future__ import annotations

from typing import Any, NamedTuple

from rnnjax.unrolling.candidates import method_as_json, method_from_json
from rnnjax.unrolling.known import Methods


class Choice(NamedTuple):
    """How a run is computed; by another choice, results would be rounded differently.

    Attributes:
      devices: number of devices that share a batch.
      methods: the methods of recurrences, by `rnnjax.unrolling.known.recurrence_key`; other recurrences get the rule's.
    """

    devices: int
    methods: Methods = ()

    def as_json(self) -> dict[str, Any]:
        """Returns the choice as an object to be written to a file."""
        return {"batch": self.devices, "methods": {key: method_as_json(method) for key, method in self.methods}}


def choice_from_json(value: Any) -> Choice | None:
    """Returns the choice that `Choice.as_json` wrote; None if the value is not one."""
    if not isinstance(value, dict) or not isinstance(value.get("methods", {}), dict):
        return None
    devices = value.get("batch")
    methods = {key: method_from_json(method) for key, method in value.get("methods", {}).items()}
    if type(devices) is not int or devices < 1 or None in methods.values():
        return None
    return Choice(devices, tuple((key, method) for key, method in methods.items() if method is not None))
