"""The result of `tune`: times of every method for each recurrence in a cell, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rnnjax.cells.representation import as_code
from rnnjax.cells.traits import is_gated
from rnnjax.unrolling.by_head import number_of_heads
from rnnjax.unrolling.candidates import method_as_json
from rnnjax.unrolling.recurrence import Method, Recurrence
from rnnjax.unrolling.scan import Scan
from rnnjax.unrolling.trial import dtype_of_products


class Timed(NamedTuple):
    """The times of one method.

    Attributes:
      method: the method.
      forward: median seconds forward; None if it was not timed.
      gradient: median seconds forward and backward; None if it was not timed.
      trouble: why it may not be chosen; None if it may.
    """

    method: Method
    forward: float | None = None
    gradient: float | None = None
    trouble: str | None = None


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The times of all methods for one recurrence.

    Attributes:
      recurrence: the recurrence, as shapes.
      methods: the times of each method.
      forward: the fastest method forward; None if it was not asked for.
      gradient: the fastest method forward and backward; None if it was not asked for.
    """

    recurrence: Recurrence
    methods: tuple[Timed, ...]
    forward: Method | None
    gradient: Method | None

    def __str__(self) -> str:
        rows = [("method", "forward, ms", "with gradient, ms", "")]
        for timed in self.methods:
            best = {"forward": self.forward, "with gradient": self.gradient}
            chosen = [measure for measure, method in best.items() if method == timed.method]
            remark = timed.trouble or (f"fastest {' and '.join(chosen)}" if chosen else "")
            rows.append((as_code(timed.method), _milliseconds(timed.forward), _milliseconds(timed.gradient), remark))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {remark}" for a, b, c, remark in rows]
        return "\n".join([self.title, *map(str.rstrip, lines)])

    @property
    def title(self) -> str:
        """A description of the recurrence."""
        recurrence = self.recurrence
        batch = jax.tree.leaves(recurrence.steps.z)[0].shape[1:]
        batch = recurrence.xs.shape[1:-1] if recurrence.xs is not None else batch[:1]
        heads = number_of_heads(recurrence) if is_gated(recurrence.cell) else 1
        cell = repr(recurrence.cell) + (f" in {heads} heads" if heads > 1 else "")
        sizes = f"{cell}, T {recurrence.length}, batch {' x '.join(map(str, batch))}"
        features = "" if recurrence.xs is None else f", {recurrence.xs.shape[-1]} features"
        flags = [name for name in ("valid", "resets") if getattr(recurrence.steps, name) is not None]
        named = "".join({"valid": ", steps missing", "resets": ", resets"}[name] for name in flags)
        return f"{sizes}{features}, products in {dtype_of_products(recurrence)}{named}"


@dataclasses.dataclass(frozen=True)
class TuneReport:
    """The result of `tune`; ``str(report)`` is a table.

    Attributes:
      tuned: the times for each recurrence in the cell; equal recurrences once.
      device: name of the device.
      versions: versions of Python and of the packages.
    """

    tuned: tuple[Tuned, ...]
    device: str
    versions: Mapping[str, str]

    @property
    def methods(self) -> tuple[Method, ...]:
        """The method chosen for each recurrence: by the time with the gradient if that was measured."""
        return tuple(each.gradient or each.forward or Scan() for each in self.tuned)

    def __str__(self) -> str:
        named = ", ".join(f"{name} {self.versions.get(name)}" for name in ("python", "rnnjax", "jax"))
        return "\n\n".join([f"{self.device}; {named}", *map(str, self.tuned)])

    def as_json(self) -> dict[str, Any]:
        """Returns the report as an object for a JSON file, times in seconds."""

        def as_json(method: Method | None) -> Any:
            return None if method is None else method_as_json(method)

        recurrences = [
            {
                "recurrence": each.title,
                "forward": as_json(each.forward),
                "gradient": as_json(each.gradient),
                "methods": [timed._asdict() | {"method": as_json(timed.method)} for timed in each.methods],
            }
            for each in self.tuned
        ]
        return {"device": self.device, "versions": dict(self.versions), "recurrences": recurrences}


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3f}"
