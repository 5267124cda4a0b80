"""Whose code the config of a run directory names: rnnjax's own runs, other code only where the user trusts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnnjax.errors import require

TRUST = "RNNJAX_TRUST"  # the environment variable that says the same as --trust


def require_trust(values: Mapping[str, Any], path: object, *, trusted: bool) -> None:
    """Raises `ConfigError` if a config that came with a run names code outside rnnjax, unless it is trusted.

    Args:
      values: the config, as it was read from `path`.
      path: its file, for the sentence.
      trusted: whether such code may be imported.
    """
    named = foreign_code(values)
    said = " and ".join(f"{field} = {name!r}" for field, name in named.items())
    require(
        trusted or not named,
        f"{path} names code outside rnnjax, which would be run here: {said}; add --trust, or set {TRUST}=1, "
        "if you know whose it is",
    )


def foreign_code(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields that name code outside rnnjax, with the names; their modules are not imported for it."""
    cell, task = values.get("cell"), values.get("task")
    named = {"task": _module(task, inside="." not in str(task))}
    if isinstance(cell, Mapping):
        kind = cell.get("kind")
        named["cell.kind"] = _module(kind, inside=":" not in str(kind))
        wrappers = cell.get("wrappers")
        foreign = [_module(name, inside=":" not in str(name)) for name in _listed(wrappers)]
        named["cell.wrappers"] = ", ".join(filter(None, foreign)) or None
    return {field: name for field, name in named.items() if name is not None}


def _listed(names: Any) -> Sequence[Any]:
    return names if isinstance(names, list) else [names]


def _module(name: Any, *, inside: bool) -> str | None:
    """Returns a name that leads out of rnnjax; None for one that does not, or that is no name at all."""
    if not isinstance(name, str) or inside:
        return None
    return None if name.partition(":")[0].split(".")[0] == "rnnjax" else name
