"""What a run computes with where the config leaves it open: chosen when it begins, and kept in its directory."""

from __future__ import annotations

from typing import Any, NamedTuple

from rnnjax.unrolling.candidates import method_as_json, method_from_json
from rnnjax.unrolling.known import Methods


class Choice(NamedTuple):
    """How a run is computed: with another choice, results would be rounded otherwise.

    Attributes:
      devices: how many share a batch.
      methods: how recurrences are unrolled, by `rnnjax.unrolling.known.recurrence_key`; all others by the rule.
    """

    devices: int
    methods: Methods = ()

    def as_json(self) -> dict[str, Any]:
        """Returns the choice as an object to be written to a file."""
        return {"batch": self.devices, "methods": {key: method_as_json(method) for key, method in self.methods}}


def choice_from_json(value: Any) -> Choice | None:
    """Returns the choice that `Choice.as_json` wrote down; None for what is none."""
    if not isinstance(value, dict) or not isinstance(value.get("methods", {}), dict):
        return None
    devices, written = value.get("batch"), value.get("methods", {})
    methods = {key: method_from_json(method) for key, method in written.items()}
    if type(devices) is not int or devices < 1 or None in methods.values():
        return None
    return Choice(devices, tuple((key, method) for key, method in methods.items() if method is not None))
