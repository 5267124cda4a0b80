"""Checks that the config in a run directory names no code outside rnnjax, unless the user trusts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnnjax.errors import require
from rnnjax.tasks import task_path

TRUST = "RNNJAX_TRUST"  # the environment variable with the effect of --trust


def require_trust(values: Mapping[str, Any], path: object, *, trusted: bool, trains: bool = False) -> None:
    """Raises `ConfigError` if the config of a run names code outside rnnjax, unless it is trusted.

    Args:
      values: the config.
      path: its file, for the message.
      trusted: whether such code may be imported.
      trains: whether the run is gone on with, so that its sinks are made, too.
    """
    named = foreign_code(values) | (foreign_sinks(values) if trains else {})
    fields = " and ".join(f"{field} = {name!r}" for field, name in named.items())
    require(
        trusted or not named,
        f"{path} names code outside rnnjax, which would be run here: {fields}; add --trust, or set {TRUST}=1 "
        "(in Python trust=True), if you trust its author",
    )


def foreign_code(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields that name code outside rnnjax, and the names; it imports none of their modules."""
    cell, task, optimizer = values.get("cell"), values.get("task"), values.get("optimizer")
    named = {"task": task if isinstance(task, str) and not is_ours(task_path(task)) else ""}
    if isinstance(cell, Mapping):
        named["cell.kind"] = _foreign(cell.get("kind"))
        named["cell.wrappers"] = _foreign(cell.get("wrappers"))
    if isinstance(optimizer, Mapping):
        named["optimizer.name"] = _foreign(optimizer.get("name"))
    return {field: names for field, names in named.items() if names}


def foreign_sinks(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the same of the sinks, which only training makes."""
    names = _foreign(values.get("sinks"))
    return {"sinks": names} if names else {}


def _foreign(names: Any) -> str:
    """Returns the names, of one or of a list, that are ``module:Class`` with a module outside rnnjax."""
    texts = [name for name in (names if isinstance(names, list) else [names]) if isinstance(name, str)]
    return ", ".join(name for name in texts if ":" in name and not is_ours(name.partition(":")[0]))


def is_ours(path: str) -> bool:
    """Says whether the dotted path of a module leads into rnnjax."""
    return path.split(".")[0] == "rnnjax"
