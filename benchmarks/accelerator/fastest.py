"""The fastest method of each case that kernels were measured in, as rows of the table of known devices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.accelerator.records import Record, read_record
from benchmarks.subjects import CELLS, METHODS
from rnnjax.files import write_json
from rnnjax.unrolling.known_devices import Row, row_as_json

# Earlier ones hold where a size is in several: what is trained, at its own length.
KERNELS = ("kernels_trained", "kernels_grid", "kernels_base")


def fastest_rows(folder: Path) -> list[Row]:
    """Returns what the kernels' steps have shown: a row for each cell, type and size, inputs projected.

    The method is the fastest with the gradient of this library's that gave the right values.
    """
    found: dict[tuple[object, ...], Row] = {}
    for record in filter(None, (read_record(folder, step) for step in KERNELS)):
        for row in fastest_of(record):
            found.setdefault(what_of(row), row)
    return list(found.values())


def fastest_of(record: Record) -> list[Row]:
    """Returns the rows of one step."""
    timed = [row for row in (record.results or {}).get("rows", []) if row["both_seconds"] is not None]
    machine, found = record.machine, {}
    for row in sorted(timed, key=lambda row: row["both_seconds"]["median"]):
        case = row["case"]
        if row["contender"] in METHODS and case["cell"] in CELLS and case["projected"]:
            sizes = (machine.device, case["cell"], case["dtype"], case["H"], case["B"])
            source = (record.command, machine.named_versions("jax", "jaxlib"), machine.revision)
            found.setdefault(sizes, Row(*sizes, METHODS[row["contender"]], *source))
    return list(found.values())


def what_of(row: Row) -> tuple[str, str, str, int, int]:
    """Returns what a row is of."""
    return row.device, row.cell, row.dtype, row.hidden, row.batch


def write_known_devices(folder: Path) -> None:
    """Writes what the kernels' steps have shown so far, as a table of one's own."""
    write_table(folder / "known_devices.json", fastest_rows(folder))


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table of known devices, the narrowest first, as it is read in order."""
    write_json(path, [row_as_json(row) for row in sorted(rows, key=what_of)])
